"""R2-Tuning's features: the hidden states of CLIP's last blocks, as they are."""

from __future__ import annotations

from torch import Tensor

from sdst.backbones.openclip import OpenClipBackbone


class HiddenStates(OpenClipBackbone):
    """An open_clip model whose hidden states are not normalised; else as `OpenClipBackbone`.

    Every clip's picture is the one at its middle; [K, T, 50, 768] of ViT-B/32, CLS first.
    """

    def scaled(self, states: Tensor) -> Tensor:
        """Hidden states in fp32."""
        return states.float()
