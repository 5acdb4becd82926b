"""Sizes of the models, as quest's presets have them (model_presets() in quest/train/train_config.cpp)."""

import dataclasses

VOCABULARY = 32000


@dataclasses.dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    heads: int
    learning_rate: float  # of configs/

    @property
    def mlp(self):
        """256 * ceil(8/3 C / 256), in integers as paper_intermediate_size() in quest/model/llama_config.cpp."""
        return 256 * ((8 * self.hidden + 767) // 768)

    @property
    def block_matrices(self):
        """Weights of all blocks' linear layers."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.mlp)

    def flops_per_token(self, sequence):
        """Of a training step, as LlamaConfig::training_flops_per_token: no embedding, causal attention counted by half."""
        matrices = self.block_matrices + VOCABULARY * self.hidden
        return 6 * matrices + 12 * self.layers * self.hidden * sequence / 2


MODELS = {
    "30M": Shape(6, 640, 5, 1.2e-3),
    "50M": Shape(7, 768, 6, 1.2e-3),
    "100M": Shape(8, 1024, 8, 6e-4),
    "200M": Shape(10, 1280, 10, 3e-4),
    "430M": Shape(13, 1664, 13, 1.5e-4),
    "800M": Shape(16, 2048, 16, 7.5e-5),
    "1.6B": Shape(20, 2560, 20, 3.75e-5),
}
