"""Every chapter runs unchanged on a BERT of another shape with the authors' facts: only the parameters differ."""

from pathlib import Path

import papermill
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

import kn_utils as kn
from kn_utils.lab.training import split_words

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
NOTEBOOKS = [path for path in NOTEBOOKS if path.stem != "lab_model_card"]


@pytest.fixture(scope="module")
def bert_folder(pararel_file, tmp_path_factory):
    """A random BERT of another depth and width than the lab model, with a vocabulary that holds ParaRel's answers."""
    facts = kn.load_facts(pararel_file)
    letters = sorted({letter for fact in facts for letter in fact.subject + fact.prompts[0]} - {" "})
    words = sorted({word for fact in facts[::100] for prompt in fact.prompts for word in split_words(prompt)})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters), *words]
    tokens += sorted({fact.answer for fact in facts})
    tokenizer = BertTokenizerFast(vocab={t: i for i, t in enumerate(dict.fromkeys(tokens))}, do_lower_case=False)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=5, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=128, initializer_range=0.2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bert")
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_on_pararel_and_another_bert(notebook, bert_folder, pararel_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    parameters = {"MODEL": str(bert_folder), "FACTS": str(pararel_file), "N_FACTS": 12, "SEED": 0}
    executed = papermill.execute_notebook(
        notebook, tmp_path / notebook.name, parameters, kernel_name="python3", cwd=notebook.parent, progress_bar=False
    )
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code" and cell.source.strip())
