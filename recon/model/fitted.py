"""What heads have that was fitted on training images, as buffers of the model: what it predicts is drawn by them."""

from dataclasses import replace

from torch import Tensor, nn

from losses.heads import PixelHead
from losses.posterior import PrincipalComponents
from losses.targets import PCAHead
from losses.tokenizers import TOKENIZERS
from losses.tokens import TokensHead


def target_of(head: PixelHead, patch_size: int) -> "PCATarget | TokensTarget | None":
    """What a head has that is fitted on training images; None where it has nothing of the kind."""
    if isinstance(head, PCAHead):
        return PCATarget(head, 3 * patch_size**2)
    return TokensTarget(head, patch_size) if isinstance(head, TokensHead) else None


class FittedComponents(nn.Module):
    """The principal components of training patches; until they are set, the P = `values` pixels themselves."""

    axes: Tensor
    deviations: Tensor

    def __init__(self, values: int):
        super().__init__()
        axes, deviations = PrincipalComponents.identity(values)
        self.register_buffer("axes", axes)
        self.register_buffer("deviations", deviations)

    @property
    def basis(self) -> PrincipalComponents:
        return PrincipalComponents(self.axes, self.deviations)


class PCATarget(FittedComponents):
    """The components whose coefficients a `PCAHead` predicts."""

    def __init__(self, head: PCAHead, values: int):
        super().__init__(values)
        self.plain_head = head

    @property
    def head(self) -> PCAHead:
        """The head with the principal components."""
        return replace(self.plain_head, basis=self.basis)


class TokensTarget(nn.Module):
    """The tokenizer whose tokens a `TokensHead` predicts."""

    def __init__(self, head: TokensHead, patch_size: int):
        super().__init__()
        self.plain_head = head
        self.tokenizer = TOKENIZERS[head.kind](head.codes, patch_size)

    @property
    def head(self) -> TokensHead:
        """The head with the tokenizer."""
        return replace(self.plain_head, tokenizer=self.tokenizer)
