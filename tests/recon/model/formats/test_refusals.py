"""A file that cannot be read as it should is one line that names it, and nothing is written."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from losses import InvalidSetting
from recon.model.formats import format_for, read, write
from tests.recon.model.formats.conftest import edited, encoder_only, made


def saved(folder, state):
    torch.save({"model": state}, folder / "broken.pth")
    return folder / "broken.pth"


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


BROKEN = {
    "lacks blocks.1.attn.qkv.weight": lambda s: without(s, "blocks.1.attn.qkv.weight"),
    "lacks decoder_pos_embed and 1 more|lacks decoder_pos_embed, decoder_norm.bias": lambda s: without(
        s, "decoder_pos_embed", "decoder_norm.bias"
    ),
    "lacks decoder_embed.weight": lambda s: without(s, "decoder_embed.weight"),
    "lacks pos_embed": lambda s: without(s, "pos_embed"),
    "lacks blocks.0.norm1.weight": lambda s: {k: v for k, v in s.items() if not k.startswith("blocks.0.")},
    "head.weight.*pretrained model": lambda s: s | {"head.weight": torch.zeros(10, 128)},
    r"decoder_pred.bias is \(3,\), not \(192,\)": lambda s: s | {"decoder_pred.bias": torch.zeros(3)},
    r"blocks.0.mlp.fc1.weight is \(256, 128\)": lambda s: s | {"blocks.0.mlp.fc1.weight": torch.zeros(256, 128)},
    "torch.int64": lambda s: s | {"norm.bias": torch.zeros(128, dtype=torch.int64)},
    "pos_embed is not the fixed sine-cosine": lambda s: s | {"pos_embed": s["pos_embed"] + 1e-4},
    "decoder_pos_embed is not the fixed": lambda s: s | {"decoder_pos_embed": s["decoder_pos_embed"] * float("nan")},
    "14 patches are no square": lambda s: s | {"pos_embed": s["pos_embed"][:, :15]},
    "not those of square patches": lambda s: s | {"patch_embed.proj.weight": torch.zeros(128, 1, 8, 8)},
    "no checkpoint of a masked autoencoder.*conv1.weight": lambda s: {"conv1.weight": torch.zeros(3)},
    "holds no tensors by name": lambda s: {},
    "how many heads a width of 100": lambda s: encoder_only(made(width=100, heads=2).state_dict()),
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_model_that_is_not_whole_is_refused(tmp_path, state, said):
    path = saved(tmp_path, BROKEN[said](state))
    with pytest.raises(InvalidSetting, match=said) as error:
        read(path)
    assert "broken.pth" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["full", "timm"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused(files, name, part):
    whole = files[name].read_bytes()
    files[name].write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InvalidSetting, match=r"cannot be read as a checkpoint.*fetch it again"):
        read(files[name])


def test_a_changed_byte_among_the_weights_is_noticed(files):
    whole = bytearray(files["visualize"].read_bytes())
    whole[len(whole) // 2] ^= 1
    files["visualize"].write_bytes(whole)
    with pytest.raises(InvalidSetting, match="has changed"):
        read(files["visualize"])


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(InvalidSetting, match=r"there is no file .*nothing.pth"):
        read(tmp_path / "nothing.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(InvalidSetting, match="holds no tensors by name"):
        read(tmp_path / "tensor.pth")
    torch.save({"format": "recon checkpoint 1", "model": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(InvalidSetting, match="give the run's folder"):
        read(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "vit"}, "is of a vit"),
        ({"hidden_act": "relu"}, "hidden_act=relu"),
        ({"image_size": 64}, "pos_embed is"),
        ({"num_attention_heads": 3}, "3 heads do not divide"),
        ({"num_attention_heads": "two"}, "damaged"),
        ({"layer_norm_eps": -1}, "epsilon is not -1"),
    ],
)
def test_a_config_that_says_otherwise_is_refused(files, tmp_path, change, said):
    write(read(files["visualize"]), tmp_path / "folder", "transformers")
    edited(tmp_path / "folder/config.json", **change)
    with pytest.raises(InvalidSetting, match=said):
        read(tmp_path / "folder")
    (tmp_path / "folder/config.json").write_text("{")
    with pytest.raises(InvalidSetting, match=r"config.json is damaged"):
        read(tmp_path / "folder")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_config_of_this_program_that_has_changed_is_refused(files, tmp_path, name):
    folder = tmp_path / "folder"
    write(read(files["visualize"]), folder, "transformers")
    text = (folder / name).read_text()
    (folder / name).write_text(" ".join(text.split()))  # the same values
    assert read(folder).verified
    for key, value in json.loads(text).items():
        changed = json.loads(text) | {key: None if value else 1}
        (folder / name).write_text(json.dumps(changed))
        with pytest.raises(InvalidSetting, match="is not as it was written; convert the original again"):
            read(folder)
    (folder / name).unlink()
    with pytest.raises(InvalidSetting, match="is not as it was written"):
        read(folder)


def test_facts_that_are_damaged_are_refused(tmp_path, state):
    for facts in ["{", "[]", json.dumps({"version": 2}), json.dumps({"version": 1, "format": "recon"})]:
        save_file(state, tmp_path / "a.safetensors", metadata={"recon": facts})
        with pytest.raises(InvalidSetting, match=r"a.safetensors is damaged"):
            read(tmp_path / "a.safetensors")


FACTS = {"mean": [0.5] * 3, "std": [0.2] * 3, "target": "pixels", "version": 1, "format": "recon"}
SIZES = {"width": 32, "depth": 1, "heads": 2, "patch_size": 8, "image_size": [16, 16], "decoder_heads": 1}


CHANGES = [
    *({"mask_ratio": ratio} for ratio in (-0.1, 1, "0.75", [0.75], float("nan"))),
    *({"mean": mean} for mean in ([], [0.5], "0.5", [[0.5]] * 3, [0.5, 0.5, "x"], [float("nan")] * 3, 7, {})),
    *({"std": std} for std in ([], [0.2, 0.2, 0.0], [-1.0] * 3, [1e300] * 3)),
    *({"target": target} for target in ("pixel", 3, [])),
    *({"version": version} for version in (2, None, "1")),
    *({"format": format} for format in ("timn", None, [])),
    *({"heads": heads} for heads in (0, -2, "two", 3, 2**62, [], None, 2.5)),
    *({"image_size": size} for size in ([], [16], [16, 16, 16], 2**62, [0, 16], [-16, -16], [16, 1e9], "16", {})),
    *({"depth": depth} for depth in (10**6, "1", -1)),
    *({"norm_eps": eps} for eps in (0, 2, "x", [])),
    *({"mask_tokens": tokens} for tokens in ("both", 1, [])),
    *({"distribution": distribution} for distribution in ({}, {"name": "mix"}, [], "mixture", {"name": "flow"})),
    {"unknown": 1},
]
ALLOWED_CHANGES = [{"image_size": "16"}, {"distribution": []}, {"distribution": {}}]


def test_what_stands_beside_the_tensors_is_checked(tmp_path):
    """Settings of wrong types, counts and ranges: one line that names the file, at once."""
    path, state = tmp_path / "a.safetensors", made(**SIZES | {"decoder_width": 32, "image_size": (16, 16)}).state_dict()
    for change in CHANGES:
        facts = FACTS | {"architecture": SIZES}
        (name,) = change
        facts = facts | change if name in FACTS else facts | {"architecture": SIZES | change}
        save_file(state, path, metadata={"recon": json.dumps(facts)})
        try:
            found = read(path).architecture
        except InvalidSetting as error:
            assert str(path) in str(error) and "\n" not in str(error), change
        else:
            assert change in ALLOWED_CHANGES and (found.heads, found.image_size) == (2, (16, 16)), change


def test_a_gap_of_a_million_blocks_is_refused_at_once(tmp_path, state):
    path = saved(tmp_path, state | {"blocks.1000000.norm1.bias": torch.zeros(128)})
    with pytest.raises(InvalidSetting, match="lacks most of its 1000001 blocks"):
        read(path)


def test_nothing_is_overwritten_or_half_written(files, tmp_path, monkeypatch):
    checkpoint, out = read(files["visualize"]), tmp_path / "out"
    out.mkdir()
    (out / "there.pth").write_text("mine")
    with pytest.raises(InvalidSetting, match="exists"):
        write(checkpoint, out / "there.pth", "official")
    assert (out / "there.pth").read_text() == "mine"

    def full(path, content):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for name, form in [("a.safetensors", "recon"), ("b.safetensors", "timm"), ("c", "transformers")]:
        with pytest.raises(InvalidSetting, match="No space left"):
            write(checkpoint, out / name, form)
    assert [path.name for path in out.iterdir()] == ["there.pth"]


def test_the_end_of_a_name_chooses_the_format(files, tmp_path):
    names = {"a.safetensors": "recon", "a.pth": "official", "a.pt": "official", "a": "transformers"}
    assert {name: format_for(tmp_path / name) for name in names} == names
    with pytest.raises(InvalidSetting, match=r"end it in .safetensors or .pth"):
        format_for(tmp_path / "a.bin")
    with pytest.raises(InvalidSetting, match=r"format=timm is written to .safetensors"):
        write(read(files["encoder"]), tmp_path / "a.pth", "timm")
    with pytest.raises(InvalidSetting, match="did you mean 'timm'"):
        write(read(files["encoder"]), tmp_path / "a.safetensors", "tim")
