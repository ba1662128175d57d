"""What several files about the losses ask for."""

import pytest

from losses.gan import GAN_LOSSES


@pytest.fixture(params=sorted(GAN_LOSSES))
def gan_loss(request):
    return request.param
