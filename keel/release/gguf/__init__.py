"""GGUF files for llama.cpp, written from a saved model's folder."""
