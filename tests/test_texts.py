from hypothesis import given
from hypothesis import strategies as st

from job.texts import Texts

TEXTS = st.lists(st.text(max_size=5), max_size=30, unique=True)


@given(TEXTS, st.lists(st.text(max_size=5), max_size=9), st.slices(30))
def test_it_is_a_sequence_of_the_texts(texts: list[str], others: list[str], part: slice) -> None:
    made = Texts.of(texts)
    assert made == texts and Texts.of(made) is made and list(made) == texts and len(made) == len(texts)
    assert made[part] == texts[part] and made == Texts.of(iter(texts))
    assert [made[row] for row in range(-len(texts), len(texts))] == texts * 2
    assert made.take(range(len(texts) - 1, -1, -1)) == texts[::-1]
    wanted = [*others, *texts[::2]]
    assert made.find(wanted).tolist() == [texts.index(text) if text in texts else -1 for text in wanted]
    assert made != [*texts, "more"] and made != "text"
