"""Every family of architectures in small, with tokenizers of their styles."""

import transformers as tf
from common import WORDS, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SIZE = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40)
GPT = dict(n_embd=24, n_layer=3, n_head=2, n_inner=40, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
LLAMA = dict(SIZE, num_key_value_heads=1, head_dim=12)
ALBERT = dict(SIZE, num_hidden_layers=4, num_hidden_groups=2, embedding_size=16)
NEO = dict(hidden_size=24, num_layers=3, num_heads=2, intermediate_size=40, attention_types=[[["global", "local"], 2]])
MODELS = {
    "bert": (tf.BertForMaskedLM, tf.BertConfig, SIZE, "wordpiece"),
    "roberta": (tf.RobertaForMaskedLM, tf.RobertaConfig, SIZE, "bytes"),
    "electra": (tf.ElectraForMaskedLM, tf.ElectraConfig, dict(SIZE, embedding_size=16), "wordpiece"),
    "distilbert": (
        tf.DistilBertForMaskedLM, tf.DistilBertConfig, dict(dim=24, n_layers=3, n_heads=2, hidden_dim=40), "wordpiece"
    ),
    "albert": (tf.AlbertForMaskedLM, tf.AlbertConfig, ALBERT, "pieces"),
    "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config, GPT, "bytes"),
    "gpt_neo": (tf.GPTNeoForCausalLM, tf.GPTNeoConfig, dict(NEO, num_layers=4), "bytes"),
    "gptj": (tf.GPTJForCausalLM, tf.GPTJConfig, dict(GPT, rotary_dim=4), "bytes"),
    "gpt_neox": (tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig, SIZE, "bytes"),
    "llama": (tf.LlamaForCausalLM, tf.LlamaConfig, LLAMA, "pieces"),
    "mistral": (tf.MistralForCausalLM, tf.MistralConfig, dict(LLAMA, sliding_window=4), "pieces"),
    "qwen2": (tf.Qwen2ForCausalLM, tf.Qwen2Config, LLAMA, "bytes"),
    "qwen3": (tf.Qwen3ForCausalLM, tf.Qwen3Config, LLAMA, "bytes"),
    "opt": (
        tf.OPTForCausalLM, tf.OPTConfig, dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, ffn_dim=40,
        word_embed_proj_dim=24, dropout=0.0), "bytes",
    ),
    "t5": (
        tf.T5ForConditionalGeneration, tf.T5Config,
        dict(d_model=24, d_kv=12, d_ff=40, num_layers=2, num_decoder_layers=3, num_heads=2, dropout_rate=0.0), "pieces",
    ),
}  # fmt: skip
PROMPTS = ["The capital of Ireland is [MASK].", "In the north of the old Ireland, the city is [MASK]."]
TEXT = [*WORDS, *PROMPTS, "The capital of Ireland is Dublin", "The capital of Peru is Lima river city", " a b c"]


def tokenizer_of(style):
    if style == "wordpiece":
        return tiny_tokenizer([*WORDS, "The", "In", "Iceland"])
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<extra_id_0>"]
    if style == "bytes":  # GPT-2, RoBERTa: a space belongs to the word after it
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    else:  # Llama, T5, ALBERT: words begin with a mark
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special)
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        mask_token=tf.AddedToken("<mask>", lstrip=True), additional_special_tokens=["<extra_id_0>"],
    )  # fmt: skip
