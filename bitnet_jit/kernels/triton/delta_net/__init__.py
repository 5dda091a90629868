"""`delta_net`: the convolution of all tokens side by side, then the gated delta rule, token by token in registers."""
