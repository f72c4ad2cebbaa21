"""Small audio encoders with random weights, saved as their users save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf

CONVOLUTIONS = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
TOKENS = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0}
WHISPER = {"d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
WHISPER |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}


def small_encoder(kind: str) -> tuple[Any, Any]:
    """A model of Hugging Face with a head or a decoder, and its preprocessing."""
    torch.manual_seed(0)
    waveform = hf.Wav2Vec2FeatureExtractor(do_normalize=False)
    masked = hf.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    match kind:
        case "wavlm":
            return hf.WavLMForCTC(hf.WavLMConfig(**SMALL, **CONVOLUTIONS)), waveform
        case "wavlm-large":
            return hf.WavLMModel(hf.WavLMConfig(**SMALL, **CONVOLUTIONS, **LARGE)), masked
        case "hubert":
            return hf.HubertModel(hf.HubertConfig(**SMALL, **CONVOLUTIONS)), waveform
        case "hubert-large":
            return hf.HubertForCTC(hf.HubertConfig(**SMALL, **CONVOLUTIONS, **LARGE)), masked
        case "wav2vec2":
            return hf.Wav2Vec2ForPreTraining(hf.Wav2Vec2Config(**SMALL, **CONVOLUTIONS)), waveform
        case "wav2vec2-large":
            return hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**SMALL, **CONVOLUTIONS, **LARGE)), masked
        case "data2vec-audio":
            positions = CONVOLUTIONS | {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 7}
            return hf.Data2VecAudioModel(hf.Data2VecAudioConfig(**SMALL, **positions)), masked
        case "wav2vec2-bert":
            config = hf.Wav2Vec2BertConfig(**SMALL, vocab_size=60, add_adapter=True, num_adapter_layers=1)
            return hf.Wav2Vec2BertForCTC(config), hf.SeamlessM4TFeatureExtractor()
        case "whisper":
            config = hf.WhisperConfig(**WHISPER, **TOKENS)
            return hf.WhisperForConditionalGeneration(config), hf.WhisperFeatureExtractor()
        case "audio-spectrogram-transformer":
            return hf.ASTForAudioClassification(hf.ASTConfig(**SMALL)), hf.ASTFeatureExtractor()
    raise ValueError(kind)


KINDS = (
    "wavlm",
    "wavlm-large",
    "hubert",
    "hubert-large",
    "wav2vec2",
    "wav2vec2-large",
    "data2vec-audio",
    "wav2vec2-bert",
    "whisper",
    "audio-spectrogram-transformer",
)


def save_encoder(kind: str, folder: Path) -> Path:
    """Saves a small encoder as its users do."""
    model, extractor = small_encoder(kind)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder
