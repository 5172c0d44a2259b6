"""How others name the weights that are named here as in the published TF1 checkpoints, and how they shape them."""

from __future__ import annotations

from collections.abc import Sequence

from training.config import ModelConfig
from training.model import weight_shapes

NSP_WEIGHTS = "cls/seq_relationship/output_weights"

# Part of a TF1 name, and what stands in its place in the TF Model Garden; applied from top to bottom. Where there are
# several, the first that a checkpoint has counts: a pretrainer whose NSP head has a pooler of its own leaves that of
# its encoder untrained.
_TF2_PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("bert/embeddings/word_embeddings", ("word_embeddings/embeddings",)),
    ("bert/embeddings/position_embeddings", ("position_embedding/embeddings",)),
    ("bert/embeddings/token_type_embeddings", ("type_embeddings/embeddings",)),
    ("bert/embeddings/LayerNorm", ("embeddings/layer_norm",)),
    ("bert/encoder/", ("transformer/",)),
    ("/attention/self/", ("/self_attention/",)),
    ("/attention/output/dense", ("/self_attention/attention_output", "/self_attention_output")),
    ("/attention/output/LayerNorm", ("/self_attention_layer_norm",)),
    ("/intermediate/dense", ("/intermediate",)),
    ("/output/dense", ("/output",)),
    ("/output/LayerNorm", ("/output_layer_norm",)),
    ("bert/pooler/dense", ("next_sentence/pooler_dense", "pooler_transform")),
    ("cls/predictions/output_bias", ("cls/predictions/output_bias/bias",)),
    (NSP_WEIGHTS, ("next_sentence/logits/kernel", "predictions/transform/logits/kernel")),
    ("cls/seq_relationship/output_bias", ("next_sentence/logits/bias", "predictions/transform/logits/bias")),
)

# Part of a name here and its place in Hugging Face's; applied from top to bottom.
_HUGGING_FACE_PARTS = (
    ("cls/predictions/output_bias", "cls/predictions/bias"),
    ("output_weights", "weight"),
    ("output_bias", "bias"),
    ("_embeddings", "_embeddings/weight"),
    ("layer_", "layer/"),
    ("kernel", "weight"),
    ("gamma", "weight"),
    ("beta", "bias"),
    ("/", "."),
)


def stored_names(name: str, naming: str) -> Sequence[str]:
    """The names that a weight may have in a checkpoint of `naming` "tf1", "tf2" or "stowage", the best first."""
    names = [name]
    if naming == "tf2":
        for part, others in _TF2_PARTS:
            if part in names[0]:
                names = [known.replace(part, other) for known in names for other in others]
    return names


def stored_shape(name: str, naming: str, config: ModelConfig) -> tuple[int, ...]:
    """The shape in which a checkpoint keeps a weight: TF2 tells heads apart and has the NSP weights transposed."""
    shape = weight_shapes(config)[name]
    if naming != "tf2":
        return shape
    heads = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
    if "/attention/self/" in name:
        return (*shape[:-1], *heads)
    if name.endswith("/attention/output/dense/kernel"):
        return (*heads, *shape[1:])
    return shape[::-1] if name == NSP_WEIGHTS else shape


def hugging_face_name(name: str) -> str:
    """The name of a weight in `BertForPreTraining`, whose decoder is tied to the word embeddings and has none."""
    for part, other in _HUGGING_FACE_PARTS:
        name = name.replace(part, other)
    return name
