"""Principal components of patches, in which a mixture is written."""

import pytest
import torch

from losses.posterior import PrincipalComponents
from losses.reconstruction import patchify
from tests.losses.scenes import photographs


def test_a_basis_is_orthonormal_and_its_deviations_fall():
    patches = (
        torch.randn(500, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        * torch.linspace(0.1, 3, 12).double()
    )
    axes, deviations = PrincipalComponents.fit(patches)
    torch.testing.assert_close(axes.T @ axes, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (deviations.diff() < 0).all()


def test_a_basis_is_what_the_singular_values_say():
    """Of photographs' patches: the root mean square along each axis, where no other direction has more."""
    image = photographs((32, 32)).double()
    patches = patchify((image - 0.5) / 0.25, 4).flatten(0, 1)
    axes, deviations = PrincipalComponents.fit(patches)
    _, singular, right = torch.linalg.svd(patches, full_matrices=False)
    torch.testing.assert_close(deviations, singular / len(patches) ** 0.5, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close((right[:10] @ axes[:, :10]).abs(), torch.eye(10).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close((patches @ axes).square().mean(0).sqrt(), deviations, rtol=1e-8, atol=1e-8)


@pytest.mark.slow  # scikit-learn's import; the singular values above are the same law
def test_of_centred_patches_a_basis_is_sklearn_s_principal_components():
    decomposition = pytest.importorskip("sklearn.decomposition")
    patches = patchify(photographs((32, 32)).double(), 2).flatten(0, 1)
    patches = patches - patches.mean(0)
    pca = decomposition.PCA(svd_solver="full").fit(patches.numpy())
    axes, deviations = PrincipalComponents.fit(patches)
    variances = torch.from_numpy(pca.explained_variance_) * (len(patches) - 1) / len(patches)
    torch.testing.assert_close(deviations.square(), variances.clamp_min(1e-6), rtol=1e-8, atol=1e-12)
    same = (torch.from_numpy(pca.components_)[:6] @ axes[:, :6]).abs()
    torch.testing.assert_close(same, torch.eye(6).double(), rtol=0, atol=1e-6)


def test_a_direction_that_the_data_never_take_has_a_deviation_all_the_same():
    axes, deviations = PrincipalComponents.fit(torch.ones(50, 12))
    assert float(deviations[0]) == pytest.approx(12**0.5, rel=1e-5) and (deviations > 0).all()
    torch.testing.assert_close(axes[:, 0].abs(), torch.full((12,), 12**-0.5), rtol=1e-5, atol=1e-5)
