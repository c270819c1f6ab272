from setuptools import find_packages, setup

setup(
    name="alignvis",
    version="0.1.0",
    description="Decode vision from the brain: human-aligned image embeddings, small encoders, honest retrieval scores",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["alignvis", "alignvis.*"]),
    install_requires=[
        "torch>=2.4",
        "numpy>=1.26",
        "scipy>=1.11",
        "mne>=1.6",
        "safetensors>=0.4.3",
        "click>=8.1",
        # what mne brings, and we import by name
        "pillow>=10",
        "matplotlib>=3.8",
        "tqdm>=4.66",
    ],
    extras_require={
        "hdf5": ["h5py>=3.8"],
        "test": [
            "pytest>=8",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "transformers>=4.40",
            "peft>=0.11",
            "h5py>=3.8",
            "build>=1",
        ],
    },
    entry_points={"console_scripts": ["alignvis = alignvis.cli:main"]},
)
