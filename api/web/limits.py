"""How often a caller may knock. Its place in the corridor: no limit is kept here yet, Nginx stops storms."""

from collections.abc import Callable
from typing import Any

from api.web.contract import Contract


def wrap(view: Callable[..., Any], _contract: Contract) -> Callable[..., Any]:
    """Count the request against the limit that the contract names."""
    return view
