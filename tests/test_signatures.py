"""The signature of what a configuration names is the schema of its settings."""

import pytest

from ladder_vae.settings.signatures import checked
from ladder_vae.system.errors import UserError


def takes(share: int | float = 1, count: int = 1, names: list[str] | None = None, **others: float) -> None:
    """A function with settings."""


def test_a_whole_number_stays_one_where_a_share_is_taken_too():
    """As of Lightning's limits of batches: 1 is one batch, 1.0 is all of them."""
    for value in (1, 1.0):
        assert type(checked("x", {"share": value}, takes)["share"]) is type(value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": "all"}, "it takes a number"),
        ({"count": 1.5}, "it takes a whole number"),
        ({"names": "a"}, "it takes a list"),
    ],
)
def test_another_type_is_refused_in_words(settings, said):
    with pytest.raises(UserError, match=said):
        checked("x", settings, takes)
