"""Train a planned pool of stages within minutes on a GPU that is lent without notice.

``pack`` puts everything that is needed into a folder, here. ``train`` works through the plan
there, where torch, torchvision and safetensors suffice. ``take`` makes stages of the answers that
come back. See ``python -m benchmarks.gpu --help`` and ``benchmarks/README.md``.
"""
