"""The pace of a vendor: how its limit, written as in the settings, is kept when jobs are handed to it."""

from fractions import Fraction
from functools import lru_cache

from api import rates
from api.rates import Bucket, Limit, Window

# Of a pace, so that what begins late by some milliseconds (LATE in api/jobs/lanes.py) keeps every window.
MARGIN = Fraction(98, 100)


@lru_cache(maxsize=1024)
def pace(text: str) -> Limit:
    """Return a vendor's limit. `10 per second` is one each 100 ms, so that no second ever has more than ten of them;
    a bucket lets its capacity begin at once. Raises ValueError for what is no limit.
    """
    limit = rates.parse(text)
    if isinstance(limit, Window):
        return Bucket(text, 1, Fraction(limit.quota, limit.window) * MARGIN)
    return limit
