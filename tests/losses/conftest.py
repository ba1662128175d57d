"""What several files about the losses ask for."""

import pytest

from losses.games import GAMES


@pytest.fixture(params=sorted(GAMES))
def game(request):
    return request.param
