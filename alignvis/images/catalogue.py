"""Every image encoder that is known here, one frozen row each, and `load`, which makes one of them."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from alignvis.errors import AlignvisError
from alignvis.images import sources
from alignvis.images.convnext import ConvNeXt
from alignvis.images.encoder import Branch, ImageEncoder, Row, Shelf, Statistics, build
from alignvis.images.levit import LeViT
from alignvis.images.lowlevel import LowLevel
from alignvis.images.resnet import ClipResNet, ResNet
from alignvis.images.resnet_v2 import ResNetV2
from alignvis.images.vgg import VGG
from alignvis.images.vit import Architecture
from alignvis.images.weights import Source, arrival, found
from alignvis.progress import Progress, silent

__all__ = ["CATALOGUE", "ImageEncoder", "Row", "Shelf", "load"]

CLIP_STATISTICS: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BILINEAR = "shortest-bilinear-224"

# --- architectures ---------------------------------------------------------------------------------------------------

CLIP_B32 = Architecture(
    32, 768, 12, 12, 7, activation="quick_gelu", eps=1e-5, ln_pre=True, output="projected", projection=512
)
CLIP_B16 = replace(CLIP_B32, patch=16, grid=14)
CLIP_L14 = replace(CLIP_B32, patch=14, width=1024, depth=24, heads=16, grid=16, projection=768)
OPEN_B32 = replace(CLIP_B32, activation="gelu")
OPEN_B16 = replace(CLIP_B16, activation="gelu")
OPEN_L14 = replace(CLIP_L14, activation="gelu")
OPEN_H14 = replace(OPEN_L14, width=1280, depth=32, projection=1024)
DINO_B16 = Architecture(16, 768, 12, 12, 14, resize="offset")
DINO_B8 = replace(DINO_B16, patch=8, grid=28)
DINOV2_B14 = replace(DINO_B16, patch=14, grid=37, layer_scale=True)
DINOV2_L14 = replace(DINOV2_B14, width=1024, depth=24, heads=16)
CLIP_RN50 = ClipResNet()
VIT_B16 = replace(DINO_B16, resize="never")
UNTRAINED = Architecture(16, 192, 6, 3, 14)

# --- rows ------------------------------------------------------------------------------------------------------------

PAPERS = {
    "CLIP": "Radford et al. (2021), arXiv:2103.00020",
    "OpenCLIP": "Cherti et al. (2023), arXiv:2212.07143",
    "DINO": "Caron et al. (2021), arXiv:2104.14294",
    "DINOv2": "Oquab et al. (2023), arXiv:2304.07193",
    "SynCLR": "Tian et al. (2023), arXiv:2312.17742",
    "DreamSim": "Fu et al. (2023), arXiv:2306.09344",
    "gLocal": "Muttenthaler et al. (2023), arXiv:2306.04507",
    "Harmonization": "Fel et al. (2022), arXiv:2211.04533",
}
LICENCES = {
    "CLIP": "MIT",
    "OpenCLIP": "MIT",
    "DINO": "Apache-2.0",
    "DINOv2": "Apache-2.0",
    "SynCLR": "Apache-2.0",
    "DreamSim": "MIT; the networks below it keep their own",
    "gLocal": "MIT; the networks below it keep their own",
    "Harmonization": "MIT, of the code; none is stated for the weights",
}
THROUGH_TRANSFORMERS = "that the published embeddings came through transformers is inferred from older scripts"
WHICH_RESIZE = "how the position table was resized for the published embeddings is not known; this is Meta's rule"
PRESUMED = "no published script names the weights; they are presumed from the id"
SYNCLR_STATISTICS = (
    "its authors normalise by the statistics of CLIP in one place and of ImageNet in another; here ImageNet"
)
HOSTED = (
    "the transform that gLocal hosts for DINOv2 ViT-B/14 is a copy of the one for DINO ViT-B/16; this id repeats what "
    "was published with it, and gLocal_dinov2-vit-base-p14_original uses the one that was fitted to DINOv2"
)

ANY_TRANSFORM = (
    "the published script was given the transform by hand, and for MEG it may have been that of another model; here it "
    "is this model's own"
)
WHICH_768 = (
    "no published script makes this name; here it is the class token before the final normalisation, and "
    "dreamsim_clip_vitb32_768_last-layer has the one after it"
)
RESNET_V2 = "the published file is a ResNet-50 V2, whatever its name says"
NO_NODE = "the published script names neither weights nor layer for this one; these are the natural ones"
NOT_CONTROLLED = (
    "{twin} differs from it in training, resize and normalisation too, so what lies between the two is not the "
    "alignment alone"
)

# id, architecture, file, statistics, what is uncertain
CLIP = [
    ("ViT-B32", CLIP_B32, sources.OPENAI_B32, CLIP_STATISTICS, THROUGH_TRANSFORMERS),
    ("ViT-B16", CLIP_B16, sources.OPENAI_B16, CLIP_STATISTICS, None),
    ("ViT-L14", CLIP_L14, sources.OPENAI_L14, CLIP_STATISTICS, THROUGH_TRANSFORMERS),
]
OPEN_CLIP = [
    (
        "ViT-B32_laion400m",
        CLIP_B32,
        sources.B32_E31,
        CLIP_STATISTICS,
        None,
    ),  # trained with QuickGELU, unlike the others
    ("ViT-B32_laion400m_e32", CLIP_B32, sources.B32_E32, CLIP_STATISTICS, None),
    ("ViT-B32_laion2b", OPEN_B32, sources.B32_2B, CLIP_STATISTICS, None),
    ("ViT-B16_laion400m_e31", OPEN_B16, sources.B16_E31, CLIP_STATISTICS, None),
    ("ViT-B16_laion400m_e32", OPEN_B16, sources.B16_E32, CLIP_STATISTICS, None),
    ("ViT-B16_laion2b", OPEN_B16, sources.B16_2B, CLIP_STATISTICS, None),
    ("ViT-L14_laion400m_e31", OPEN_L14, sources.L14_E31, CLIP_STATISTICS, None),
    ("ViT-L14_laion400m", OPEN_L14, sources.L14_E32, CLIP_STATISTICS, None),
    ("ViT-L14_laion2b", OPEN_L14, sources.L14_2B, HALF, None),
    ("ViT-H14_laion2b", OPEN_H14, sources.H14_2B, CLIP_STATISTICS, PRESUMED),
]
DINO = [  # with the eps that transformers states for these files
    ("DINO_ViT-B16", replace(DINO_B16, eps=1e-12), sources.META_B16, IMAGENET, THROUGH_TRANSFORMERS),
    ("DINO_ViT-B8", replace(DINO_B8, eps=1e-12), sources.META_B8, IMAGENET, THROUGH_TRANSFORMERS),
]
DINOV2 = [
    ("DINOv2_ViT-B14", DINOV2_B14, sources.META_V2_B, IMAGENET, WHICH_RESIZE),
    ("DINOv2_ViT-L14", DINOV2_L14, sources.META_V2_L, IMAGENET, WHICH_RESIZE),
    ("dinov2_vit-l-14", DINOV2_L14, sources.META_V2_L, IMAGENET, WHICH_RESIZE),  # a second published name
    ("DINOv2_ViT-B14_size-rule", replace(DINOV2_B14, resize="size"), sources.META_V2_B, IMAGENET, None),
    ("DINOv2_ViT-L14_size-rule", replace(DINOV2_L14, resize="size"), sources.META_V2_L, IMAGENET, None),
]
GLOCAL = [  # id, architecture, geometry, file, statistics, transform
    ("clip_vit-l-14", CLIP_L14, "clip", sources.OPENAI_L14, CLIP_STATISTICS, sources.GLOCAL_CLIP_L14),
    ("clip_rn50", CLIP_RN50, "clip", sources.OPENAI_RN50, CLIP_STATISTICS, sources.GLOCAL_CLIP_RN50),
    ("openclip_vit-l-14_laion400m_e32", OPEN_L14, "clip", sources.L14_E32, CLIP_STATISTICS, sources.GLOCAL_L14_400M),
    ("openclip_vit-l-14_laion2b_s32b_b82k", OPEN_L14, "clip", sources.L14_2B, HALF, sources.GLOCAL_L14_2B),
    ("dino-vit-base-p16", DINO_B16, BILINEAR, sources.META_B16, IMAGENET, sources.GLOCAL_DINO_B16),
    ("dino-vit-base-p8", DINO_B8, BILINEAR, sources.META_B8, IMAGENET, sources.GLOCAL_DINO_B8),
    ("dinov2-vit-base-p14", DINOV2_B14, BILINEAR, sources.META_V2_B, IMAGENET, sources.GLOCAL_V2_B_HOSTED),
    ("dinov2-vit-large-p14", DINOV2_L14, BILINEAR, sources.META_V2_L, IMAGENET, sources.GLOCAL_V2_L),
]

HARMONIZATION = [  # id; of the harmonised and of the plain one: architecture, file; then the plain one's
    # geometry, statistics and licence, and what is uncertain of each
    (
        "vitb16",
        (VIT_B16, sources.HARMONIZED_VIT),
        (VIT_B16, sources.TIMM_VIT),
        ("shortest-bicubic-248-crop-224", HALF, "Apache-2.0"),
        (None, None),
    ),
    (
        "resnet50",
        (ResNetV2(), sources.HARMONIZED_RESNET),
        (ResNet(), sources.TIMM_RESNET),
        ("shortest-bicubic-235-crop-224", IMAGENET, "Apache-2.0"),
        (RESNET_V2, None),
    ),
    (
        "convnext",
        (ConvNeXt(), sources.HARMONIZED_CONVNEXT),
        (ConvNeXt(), sources.TIMM_CONVNEXT),
        ("shortest-bicubic-235-crop-224", IMAGENET, "Apache-2.0"),
        (None, None),
    ),
    (
        "levit",
        (LeViT(), sources.HARMONIZED_LEVIT),
        (LeViT(output="mean"), sources.TIMM_LEVIT),  # the published scripts take them at two places
        ("shortest-bicubic-248-crop-224", IMAGENET, "Apache-2.0"),
        (None, None),
    ),
    (
        "vgg16",
        (VGG(), sources.HARMONIZED_VGG),
        (VGG(), sources.TIMM_VGG),
        ("shortest-bilinear-256-crop-224", IMAGENET, "BSD-3-Clause"),
        (None, NO_NODE),
    ),
]


def _before_norm(architecture: Architecture, *files: Source) -> Branch:
    """A branch of DreamSim whose feature is the class token before the final normalisation."""
    return Branch(replace(architecture, output="prenorm"), files, IMAGENET)


def _clip_branch(architecture: Architecture, *files: Source) -> Branch:
    return Branch(architecture, files, CLIP_STATISTICS)


DREAMSIM_DINO = _before_norm(DINO_B16, sources.META_B16)
DREAMSIM_CLIP = _clip_branch(CLIP_B32, sources.DREAMSIM_CLIP_B32, sources.OPENAI_B32)
CLIP_ADAPTER = sources.dreamsim("clip_vitb32", "clip_vitb32_single_lora/")
# OpenCLIP's networks run with the exact GELU in DreamSim, though the B/32 was trained with QuickGELU.
DREAMSIM = [  # id, its branches, its adapter
    ("dino_vitb16", (DREAMSIM_DINO,), sources.dreamsim("dino_vitb16", "dino_vitb16_single_lora/")),
    ("clip_vitb32", (DREAMSIM_CLIP,), CLIP_ADAPTER),
    (
        "open_clip_vitb32",
        (_clip_branch(OPEN_B32, sources.DREAMSIM_OPEN_B32, sources.B32_E31),),
        sources.dreamsim("open_clip_vitb32", "open_clip_vitb32_single_lora/"),
    ),
    (
        "dinov2_vitb14",
        (_before_norm(DINOV2_B14, sources.META_V2_B),),
        sources.dreamsim("dinov2_vitb14", "dinov2_vitb14_single_lora/", "v0.2.1"),
    ),
    (
        "synclr_vitb16",
        (_before_norm(DINO_B16, sources.SYNCLR),),
        sources.dreamsim("synclr_vitb16", "synclr_vitb16_single_lora/", "v0.2.1"),
    ),
    (
        "ensemble",
        (
            DREAMSIM_DINO,
            _clip_branch(CLIP_B16, sources.DREAMSIM_CLIP_B16, sources.OPENAI_B16),
            _clip_branch(OPEN_B16, sources.DREAMSIM_OPEN_B16, sources.B16_E31),
        ),
        sources.dreamsim("ensemble", "ensemble_lora/", megabytes=1261),
    ),
    (
        "dino_vitb16_patch",
        (replace(DREAMSIM_DINO, architecture=replace(DINO_B16, output="patches")),),
        sources.dreamsim("dino_vitb16_patch", "dino_vitb16_patch_lora/", "v0.2.1"),
    ),
    (
        "dinov2_vitb14_patch",
        (Branch(replace(DINOV2_B14, output="patches"), (sources.META_V2_B,), IMAGENET),),
        sources.dreamsim("dinov2_vitb14_patch", "dinov2_vitb14_patch_lora/", "v0.2.1"),
    ),
    ("clip_vitb32_768", (replace(DREAMSIM_CLIP, architecture=replace(CLIP_B32, output="prenorm")),), CLIP_ADAPTER),
    (
        "clip_vitb32_768_last-layer",
        (replace(DREAMSIM_CLIP, architecture=replace(CLIP_B32, output="norm")),),
        CLIP_ADAPTER,
    ),
]


def _rows() -> Iterator[Row]:
    yield _row("lowlevel", "lowlevel", "lowlevel", (), LowLevel.dim)
    yield _row("untrained_vit", "untrained", "squash-bicubic-224", (Branch(UNTRAINED, (), IMAGENET),))
    rn50 = Branch(CLIP_RN50, (sources.OPENAI_RN50,), CLIP_STATISTICS)
    yield _row("CLIP_RN50_noalign", "CLIP", "clip", (rn50,))
    bases = [
        ("CLIP", "CLIP_", "hf-clip", CLIP),
        ("OpenCLIP", "OpenCLIP_", "clip", OPEN_CLIP),
        ("DINO", "", "squash-bilinear-224", DINO),
        ("DINOv2", "", "bicubic-256-crop-224", DINOV2),
    ]
    for family, prefix, geometry, table in bases:
        for name, architecture, file, statistics, uncertain in table:
            branch = Branch(architecture, (file,), statistics)
            yield _row(f"{prefix}{name}_noalign", family, geometry, (branch,), uncertain=uncertain)
    synclr = Branch(DINO_B16, (sources.SYNCLR,), IMAGENET)
    yield _row("SynCLR_ViT-B16_noalign", "SynCLR", "bicubic-256-crop-224", (synclr,), uncertain=SYNCLR_STATISTICS)
    for name, branches, adapter in DREAMSIM:
        uncertain = WHICH_768 if name == "clip_vitb32_768" else None
        row = _row(f"dreamsim_{name}", "DreamSim", "squash-bicubic-224", branches, uncertain=uncertain)
        yield from _twins(replace(row, adapter=adapter))
    for name, architecture, geometry, file, statistics, transform in GLOCAL:
        branches = (Branch(architecture, (file,), statistics),)
        uncertain = ANY_TRANSFORM if name == "dino-vit-base-p16" else None
        row = replace(_row(f"gLocal_{name}", "gLocal", geometry, branches, uncertain=uncertain), transform=transform)
        own = sources.GLOCAL_V2_B if transform is sources.GLOCAL_V2_B_HOSTED else transform
        if geometry == BILINEAR:  # what the transforms were fitted to; published is 224
            wider = replace(row, id=f"{row.id}_resize-256", geometry="shortest-bilinear-256-crop-224", uncertain=None)
            yield from _twins(replace(wider, transform=own))
        if own is not transform:
            mended = replace(row, id=f"{row.id}_original", transform=own)
            yield replace(mended, aligned=True, twin=f"{row.id}_noalign")
            row = replace(row, warning=HOSTED)
        yield from (replace(twin, uncertain=twin.uncertain if twin.aligned else None) for twin in _twins(row))
    for name, (network, file), (plain, other), (geometry, statistics, licence), (uncertain, unsure) in HARMONIZATION:
        id = f"harmonization_{name}"
        here = Branch(network, (file,), IMAGENET)
        row = _row(id, "Harmonization", "squash-tf-bicubic-224", (here,), uncertain=uncertain)
        yield replace(row, aligned=True, twin=f"{id}_noalign")
        there = Branch(plain, (other,), statistics)
        row = replace(_row(f"{id}_noalign", "Harmonization", geometry, (there,), uncertain=unsure), licence=licence)
        yield replace(row, twin=id, warning=NOT_CONTROLLED.format(twin=id))


def _row(
    id: str,
    family: str,
    geometry: str,
    branches: tuple[Branch, ...],
    dim: int | None = None,
    uncertain: str | None = None,
) -> Row:
    """A row that is not aligned."""
    dim = sum(branch.architecture.dim for branch in branches) if dim is None else dim
    licence, paper = LICENCES.get(family, "MIT"), PAPERS.get(family, "alignvis")
    return Row(id, family, False, dim, geometry, branches, licence, paper, uncertain=uncertain)


def _twins(row: Row) -> Iterator[Row]:
    """The row as it is, aligned, and the same without what aligns it."""
    plain = f"{row.id}_noalign"
    yield replace(row, aligned=True, twin=plain)
    yield replace(row, id=plain, twin=row.id, adapter=None, transform=None, warning=None)


CATALOGUE: dict[str, Row] = {row.id: row for row in _rows()}
DEFAULT = ("dreamsim_synclr_vitb16", "dreamsim_synclr_vitb16_noalign")  # the published best, and its unaligned twin


def known(id: str) -> Row:
    """The row of an encoder.

    Raises:
        AlignvisError: when no encoder has this id.
    """
    if id not in CATALOGUE:
        lower = {known.lower(): known for known in CATALOGUE}
        near = [lower[name] for name in difflib.get_close_matches(id.lower(), lower, n=3)]
        hint = f"did you mean {' or '.join(near)}?" if near else "`alignvis list` shows them all"
        raise AlignvisError(f"no image encoder is called {id!r}; {hint}")
    return CATALOGUE[id]


def require(ids: Sequence[str], folder: Path) -> None:
    """Make sure that all files of some encoders are on this machine, so that none is asked for one by one.

    Raises:
        AlignvisError: when some are not; the sentence says where each comes from and where it goes.
    """
    sources = dict.fromkeys(source for id in ids for source in known(id).sources if found(source, folder) is None)
    wanted = {source.url: arrival(source, folder) for source in sources}  # an archive once, whatever is in it
    if wanted:
        each = "; ".join(f"{url} to {path}" for url, path in wanted.items())
        raise AlignvisError(
            f"{len(wanted)} file{'s are' if len(wanted) > 1 else ' is'} neither in {folder} nor in the cache of "
            f"another program, and downloading is switched off; fetch {each}"
        )


def load(
    id: str,
    folder: Path,
    *,
    given: Path | None = None,
    download: bool = True,
    shelf: Shelf | None = None,
    progress: Progress = silent,
) -> ImageEncoder:
    """Make an encoder of the catalogue; see `encoder.build` for where its files are looked for.

    Args:
        folder: the ``weights/`` folder.
        given: a file, folder or archive of the user's own.
        download: whether the network may be used.
        shelf: given to several calls, it lets encoders that are made of the same files share them.

    Raises:
        AlignvisError: when no encoder has this id, or its files cannot be had or are not what they should be.
    """
    return build(known(id), Path(folder), given=given, download=download, shelf=shelf, progress=progress)
