"""How the embedded checkpoint is made: data, tokenizer, training, evaluation."""
