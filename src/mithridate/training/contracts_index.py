"""The names of the victim contracts, without importing torch."""

CONTRACTS: dict[str, tuple[str, str]] = {
    "paper-wb40": (
        "40 epochs, batch 128, Nesterov SGD 0.1 dropped at 14/24/35, decay 5e-4, continuous shifts and flips",
        "Geiping et al., Witches' Brew (ICLR 2021), the recipe that its code calls conservative",
    ),
    "bench-scratch200": (
        "200 epochs, batch 128, momentum SGD 0.1 dropped at 100/150, decay 2e-4, padded crops and flips",
        "Schwarzschild et al., Just How Toxic is Data Poisoning? (ICML 2021), training from scratch",
    ),
    "bench-transfer40": (
        "40 epochs of a fresh linear head on a frozen pretrained network, momentum SGD 0.01 dropped at 30",
        "Schwarzschild et al., Just How Toxic is Data Poisoning? (ICML 2021), transfer learning",
    ),
    "fast-triangle": (
        "12 epochs from scratch, batch 128, one triangular cycle of Nesterov SGD, padded crops and flips: screening",
        "a recipe of this project: not comparable with published tables",
    ),
    "fast-light": (
        "20 epochs from scratch, batch 64, Nesterov SGD 0.1 dropped at 7/12/17, flips and one-pixel shifts",
        "a recipe of this project: not comparable with published tables",
    ),
    "digits-mlp40": (
        "40 epochs, batch 64, Nesterov SGD 0.1 dropped at 14/24/35, decay 5e-4, no augmentation",
        "a recipe of this project for the embedded digits",
    ),
    "digits-cnn30": (
        "30 epochs, batch 64, momentum SGD 0.05 falling linearly to 0, decay 5e-4, no augmentation",
        "a recipe of this project for triggers on the embedded digits, with the model convnet3",
    ),
    "potion-cifar": (
        "41 epochs (4,000 steps on CIFAR-10), batch 512, momentum SGD 0.025 with a short warm-up and a linear fall to "
        "a fifth, decay 5e-4, padded crops and flips",
        "Goel et al. (TMLR 2024) and Schoepf et al., Potion (2024), by their code, with the model resnet9-celu; the "
        "code trains in half precision",
    ),
}

CONTRACT_NAMES: tuple[str, ...] = tuple(CONTRACTS)
