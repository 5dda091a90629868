"""`delta_net`: the convolution over tokens, and the gated delta rule over states that stay in the first cache."""
