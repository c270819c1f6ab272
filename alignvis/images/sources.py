"""Where the official weights lie: one `Source` a file, with the places where other programs keep it."""

from alignvis.images.weights import Source

OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def _hub(repository: str, *names: str) -> tuple[str, ...]:
    return tuple(f"hf:{repository}/{name}" for name in names or ("model.safetensors", "pytorch_model.bin"))


def _openai(file: str, sha256: str, megabytes: int, *elsewhere: str) -> Source:
    url = f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"
    return Source(f"clip/{file}", url, sha256, megabytes=megabytes, cached=(f"clip:{file}", *elsewhere))


def _release(file: str, repository: str, megabytes: int) -> Source:
    """A file of OpenCLIP on GitHub, whose name ends in the beginning of its digest."""
    url = f"https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights/{file}"
    digest = file.removesuffix(".pt").rpartition("-")[2]
    cached = _hub(repository, *OPEN_CLIP_FILES)
    return Source(f"open_clip/{file}", url, digest, megabytes=megabytes, cached=cached)


def _laion(repository: str, megabytes: int) -> Source:
    """A file of OpenCLIP on the Hugging Face hub; the one for transformers holds the same weights."""
    name = OPEN_CLIP_FILES[0]
    url = f"https://huggingface.co/{repository}/resolve/main/{name}"
    cached = (*_hub(repository, *OPEN_CLIP_FILES), *_hub(repository))
    return Source(f"open_clip/{repository.partition('/')[2]}/{name}", url, megabytes=megabytes, cached=cached)


def _meta(project: str, folder: str, file: str, repository: str, megabytes: int) -> Source:
    url = f"https://dl.fbaipublicfiles.com/{project}/{folder}/{file}"
    places = (f"torch:checkpoints/{file}", f"dreamsim:checkpoints/{file}", f"dreamsim:{file}")
    return Source(f"{project}/{file}", url, megabytes=megabytes, cached=(*places, *_hub(repository)))


def dreamsim(name: str, member: str, version: str = "v0.2.0", megabytes: int | None = None) -> Source:
    """A member of one of DreamSim's archives: a file, or a folder ending in "/"."""
    base = "https://github.com/ssundaram21/dreamsim/releases/download"
    url = f"{base}/{version}-checkpoints/dreamsim_{name}_checkpoint.zip"
    kept = member.rstrip("/")
    return Source(f"dreamsim/{kept}", url, member=member, megabytes=megabytes, cached=(f"dreamsim:{kept}",))


def _glocal(model: str, sha256: str, revision: str = "main", megabytes: int = 2) -> Source:
    url = f"https://raw.githubusercontent.com/LukasMut/gLocal/{revision}/transforms/{model}/transform.npz"
    kept = model if revision == "main" else f"{revision[:7]}/{model}"
    return Source(f"glocal/{kept}/transform.npz", url, sha256, megabytes=megabytes)


def _harmonization(file: str, megabytes: int) -> Source:
    """A Keras file; the published code keeps it without its ending."""
    url = f"https://storage.googleapis.com/serrelab/prj_harmonization/models/{file}"
    return Source(f"harmonization/{file}", url, megabytes=megabytes)


def _timm(model: str, megabytes: int) -> Source:
    repository, name = f"timm/{model}", "model.safetensors"
    url = f"https://huggingface.co/{repository}/resolve/main/{name}"
    return Source(f"timm/{model}/{name}", url, megabytes=megabytes, cached=_hub(repository))


OPENAI_B32 = _openai(
    "ViT-B-32.pt",
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    354,
    *_hub("openai/clip-vit-base-patch32"),
)
OPENAI_B16 = _openai(
    "ViT-B-16.pt",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    351,
    *_hub("openai/clip-vit-base-patch16"),
)
OPENAI_L14 = _openai(
    "ViT-L-14.pt",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    933,
    *_hub("openai/clip-vit-large-patch14"),
)
OPENAI_RN50 = _openai(
    "RN50.pt",
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    256,
    *_hub("timm/resnet50_clip.openai", *OPEN_CLIP_FILES),
)
B32_E31 = _release("vit_b_32-quickgelu-laion400m_e31-d867053b.pt", "timm/vit_base_patch32_clip_224.laion400m_e31", 605)
B32_E32 = _release("vit_b_32-quickgelu-laion400m_e32-46683a32.pt", "timm/vit_base_patch32_clip_224.laion400m_e32", 605)
B16_E31 = _release("vit_b_16-laion400m_e31-00efa78f.pt", "timm/vit_base_patch16_clip_224.laion400m_e31", 599)
B16_E32 = _release("vit_b_16-laion400m_e32-55e67d44.pt", "timm/vit_base_patch16_clip_224.laion400m_e32", 599)
L14_E31 = _release("vit_l_14-laion400m_e31-69988bb6.pt", "timm/vit_large_patch14_clip_224.laion400m_e31", 1711)
L14_E32 = _release("vit_l_14-laion400m_e32-3d133497.pt", "timm/vit_large_patch14_clip_224.laion400m_e32", 1711)
B32_2B = _laion("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 605)
B16_2B = _laion("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", 599)
L14_2B = _laion("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", 1711)
H14_2B = _laion("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 3944)
META_B16 = _meta("dino", "dino_vitbase16_pretrain", "dino_vitbase16_pretrain.pth", "facebook/dino-vitb16", 343)
META_B8 = _meta("dino", "dino_vitbase8_pretrain", "dino_vitbase8_pretrain.pth", "facebook/dino-vitb8", 343)
META_V2_B = _meta("dinov2", "dinov2_vitb14", "dinov2_vitb14_pretrain.pth", "facebook/dinov2-base", 346)
META_V2_L = _meta("dinov2", "dinov2_vitl14", "dinov2_vitl14_pretrain.pth", "facebook/dinov2-large", 1218)
SYNCLR = dreamsim("synclr_vitb16", "synclr_vit_b_16.pth", "v0.2.1")
DREAMSIM_CLIP_B32 = dreamsim("clip_vitb32", "clip_vitb32_pretrain.pth.tar")
DREAMSIM_OPEN_B32 = dreamsim("open_clip_vitb32", "open_clip_vitb32_pretrain.pth.tar")
DREAMSIM_CLIP_B16 = dreamsim("ensemble", "clip_vitb16_pretrain.pth.tar", megabytes=1261)
DREAMSIM_OPEN_B16 = dreamsim("ensemble", "open_clip_vitb16_pretrain.pth.tar", megabytes=1261)
GLOCAL_CLIP_L14 = _glocal("clip_ViT-L/14/visual", "4d9f969b1cac5334e87c93a6743a50e0f7d38cb41d7e8fb701584bc29d2fe25a")
GLOCAL_CLIP_RN50 = _glocal("clip_RN50/visual", "81fc831f60c43ded", megabytes=4)
GLOCAL_L14_400M = _glocal("OpenCLIP_ViT-L-14_laion400m_e32/visual", "1c34c877528ea375")
GLOCAL_L14_2B = _glocal(
    "OpenCLIP_ViT-L-14_laion2b_s32b_b82k/visual",
    "38ac3e412c0b42fcdc1e545383ca6c1363472809b2611d0e4f4bf8d5878f7365",
)
GLOCAL_DINO_B16 = _glocal("dino-vit-base-p16/norm", "2bcb2d77346fbaec29326edc54bc03060145ecbb1fb5d80c3c7733241a71dd69")
GLOCAL_DINO_B8 = _glocal("dino-vit-base-p8/norm", "583ff8178d769e68")
# The file hosted for DINOv2 ViT-B/14 is a copy of the one above; the one that was fitted to it is in the history.
GLOCAL_V2_B_HOSTED = _glocal("dinov2-vit-base-p14/norm", GLOCAL_DINO_B16.sha256)
GLOCAL_V2_B = _glocal(
    "dinov2-vit-base-p14/norm",
    "9cf041b79d8c4e16d4c9b1a4dc50c9c32f95bdcd3321ed0bf94b128c9b99b947",
    "d1860d3e71c2e42cd345438c861f19478d15a95d",
)
GLOCAL_V2_L = _glocal("dinov2-vit-large-p14/norm", "b3da393252d7d840", megabytes=4)
HARMONIZED_VIT = _harmonization("vit-b16_harmonized.h5", 346)
HARMONIZED_RESNET = _harmonization("resnet50v2_harmonized.h5", 103)
HARMONIZED_CONVNEXT = _harmonization("convnext_tiny_harmonized.h5", 115)
HARMONIZED_LEVIT = _harmonization("levit_small_harmonized.h5", 37)
HARMONIZED_VGG = _harmonization("vgg16_harmonized.h5", 553)
TIMM_VIT = _timm("vit_base_patch16_224.augreg2_in21k_ft_in1k", 346)
TIMM_RESNET = _timm("resnet50.a1_in1k", 102)
TIMM_CONVNEXT = _timm("convnext_tiny.in12k_ft_in1k", 114)
TIMM_LEVIT = _timm("levit_conv_128.fb_dist_in1k", 37)
TIMM_VGG = _timm("vgg16.tv_in1k", 553)
