"""Attention behind one front door: plain, windowed, document-masked and packed.

`attention` takes batches `[B, H, L, D]`, `varlen_attention` packed tokens `[T, H, D]`;
`document_mask` prepares a batch's document ids once for all layers. `choose` decides the kernel.

Not here: projections, position encodings, key-value caches and dropout of attention weights.
"""

from tenfold.attention.choice import Choice, Workload, choose
from tenfold.attention.dispatch import attention, varlen_attention
from tenfold.attention.masks import DocumentMask, document_mask

__all__ = [
    "Choice",
    "DocumentMask",
    "Workload",
    "attention",
    "choose",
    "document_mask",
    "varlen_attention",
]
