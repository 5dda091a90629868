"""`Conversation`: what is asked and answered, whatever the texts."""

import json

from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.generation.conversation import Conversation
from bitnet_jit.generation.unicode import well_formed

TEXTS = st.text(max_size=20) | st.just("\ud800 \udcff \U0010ffff\x00")


@given(st.none() | TEXTS, st.lists(st.tuples(TEXTS, TEXTS), max_size=4), TEXTS)
def test_messages_stand_in_their_order_and_come_back_from_a_file(system, turns, question):
    chat = Conversation(system)
    for asked, answered in turns:
        chat.add(asked, answered)
    first = [] if system is None else [("system", well_formed(system))]
    pairs = [pair for asked, answered in turns for pair in (("user", asked), ("assistant", answered))]
    expected = [*first, *((role, well_formed(text)) for role, text in pairs)]
    assert [(message["role"], message["content"]) for message in chat.messages] == expected
    assert chat.asked(question) == [*chat.messages, {"role": "user", "content": well_formed(question)}]
    assert len(chat.messages) == len(expected)
    assert json.loads(chat.to_json("tiny")) == {"model": "tiny", "messages": chat.messages}
    chat.reset()
    assert [(message["role"], message["content"]) for message in chat.messages] == first
