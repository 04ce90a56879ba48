"""Write a model of random weights as wide as a published one, to time what its size costs.

    python benchmarks/random_model.py DIR [--layers 12] [--width 4096] [--tokenizer smollm2-135m]

It is Qwen3's architecture with the sizes of Qwen3-8B, fewer layers and another tokenizer. What it
says means nothing; how long it takes doesn't depend on that.
"""

from __future__ import annotations

import argparse

import torch


def main() -> None:
    """Draw the weights on a GPU where there is one, and write them in bf16."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--tokenizer", default="smollm2-135m")
    options = parser.parse_args()
    import transformers

    from moralprobe.models.packaged import PACKAGED, packaged_folder

    name = options.tokenizer
    place = packaged_folder(name) if name in PACKAGED else name
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    config = transformers.Qwen3Config(
        hidden_size=options.width,
        intermediate_size=3 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 128,
        num_key_value_heads=max(1, options.width // 512),
        head_dim=128,
        vocab_size=len(tokenizer),
        max_position_embeddings=40960,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"{options.out}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
