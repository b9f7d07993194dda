"""The published reinforcements, which have no `reinforcement.json` (spec 2.1, 2.4 and 3).

Free of torch.
"""

from mobileclip.schema import MOBILECLIP_AUGMENT, ReinforcementInfo, TeacherInfo

_CAPTIONER = "coca_ViT-L-14/mscoco_finetuned_laion2B-s13B-b90k, top_p 0.9"


def _release(
    *teachers: tuple[str, float], num_views: int, captioner: str = _CAPTIONER
) -> ReinforcementInfo:
    return ReinforcementInfo(
        teachers=tuple(
            TeacherInfo(name=name, dim=768, logit_scale=scale, input_size=224)
            for name, scale in teachers
        ),
        augment=MOBILECLIP_AUGMENT,
        num_views=num_views,
        num_captions=5,
        captioner=captioner,
    )


_CLIP_TEACHERS = (("ViT-L-14/openai", 100.0), ("ViT-L-14/datacomp_xl_s13b_b90k", 100.0))
# In the order of the official run_dfndr2b.sh, whose scales are 70 and 60.
_DFN_TEACHERS = (("DFN2B-CLIP-ViT-L-14", 70.0), ("DFN2B-CLIP-ViT-L-14-s39b", 60.0))

PUBLISHED: dict[str, ReinforcementInfo] = {
    "datacompdr-12m": _release(*_CLIP_TEACHERS, num_views=30),
    "datacompdr-1b": _release(*_CLIP_TEACHERS, num_views=10),
    "dfndr-2b": _release(*_DFN_TEACHERS, num_views=2, captioner="CoCa DFN + MSCOCO-38k"),
}
"""Names to what the shards of a release hold."""


def published(name: str) -> ReinforcementInfo:
    """Return what a release holds.

    Raises:
        ValueError: No such release.
    """
    if name not in PUBLISHED:
        raise ValueError(f"release must be one of {', '.join(PUBLISHED)}, got {name!r}")
    return PUBLISHED[name]
