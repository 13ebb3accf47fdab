#include "format/checkpoint.hpp"

#include <gtest/gtest.h>

#include <set>

#include "unit/format_support.hpp"

namespace quantsparse::format::test {
namespace {

void write_tensors(const std::filesystem::path& path, const std::vector<std::string>& names) {
    std::filesystem::create_directories(path.parent_path());
    SafetensorsWriter writer(path);
    float value = 0;
    for (const auto& name : names) {
        writer.declare(name, DType::f32, {1});
    }
    for (const auto& name : names) {
        writer.write(name, bytes_of(std::vector<float>{value++}));
    }
    writer.finish();
}

/// Of names without a prefix.
std::string mapped(const char* kind, const std::vector<std::string>& all, const std::string& name) {
    return network_kind(kind).renamer(all)(name).value_or("(dropped)");
}

TEST(TensorNames, DiffusersTransformerSwapsTheTwoNorms) {
    const std::vector<std::string> all = {"condition_embedder.time_proj.weight"};
    const auto name = [&](const std::string& text) { return mapped("wan-dit", all, text); };
    EXPECT_EQ(name("blocks.12.norm2.weight"), "blocks.12.norm3.weight");
    EXPECT_EQ(name("blocks.3.attn1.to_out.0.bias"), "blocks.3.self_attn.o.bias");
    EXPECT_EQ(name("blocks.3.attn2.norm_k.weight"), "blocks.3.cross_attn.norm_k.weight");
    EXPECT_EQ(name("blocks.3.ffn.net.0.proj.weight"), "blocks.3.ffn.0.weight");
    EXPECT_EQ(name("blocks.3.ffn.net.2.weight"), "blocks.3.ffn.2.weight");
    EXPECT_EQ(name("blocks.3.scale_shift_table"), "blocks.3.modulation");
    EXPECT_EQ(name("scale_shift_table"), "head.modulation");
    EXPECT_EQ(name("proj_out.bias"), "head.head.bias");
    EXPECT_EQ(name("condition_embedder.text_embedder.linear_2.weight"), "text_embedding.2.weight");
    EXPECT_EQ(name("patch_embedding.weight"), "patch_embedding.weight");
}

TEST(TensorNames, ComfyuiPrefixIsStrippedAndTheRestDropped) {
    const TemporaryFolder folder;
    write_tensors(folder / "all.safetensors", {"first_stage_model.conv2.weight",
                                               "model.diffusion_model.blocks.0.norm3.weight"});
    const auto names_of = [&](const char* kind) {
        return Checkpoint::open(folder / "all.safetensors", network_kind(kind)).names();
    };
    EXPECT_EQ(names_of("wan-dit"), std::vector<std::string>{"blocks.0.norm3.weight"});
    EXPECT_EQ(names_of("wan-vae"), std::vector<std::string>{"conv2.weight"});
}

TEST(TensorNames, TransformersUmt5) {
    const std::vector<std::string> all = {"shared.weight"};
    const auto name = [&](const std::string& text) { return mapped("umt5", all, text); };
    EXPECT_EQ(name("shared.weight"), "token_embedding.weight");
    EXPECT_EQ(name("encoder.embed_tokens.weight"), "(dropped)");
    EXPECT_EQ(mapped("umt5", {"encoder.block.0.layer.0.layer_norm.weight"},
                     "encoder.embed_tokens.weight"),
              "token_embedding.weight");
    EXPECT_EQ(name("encoder.block.7.layer.0.SelfAttention.relative_attention_bias.weight"),
              "blocks.7.pos_embedding.embedding.weight");
    EXPECT_EQ(name("encoder.block.7.layer.1.DenseReluDense.wi_0.weight"),
              "blocks.7.ffn.gate.0.weight");
    EXPECT_EQ(name("encoder.block.7.layer.1.DenseReluDense.wi_1.weight"),
              "blocks.7.ffn.fc1.weight");
    EXPECT_EQ(name("encoder.final_layer_norm.weight"), "norm.weight");
}

TEST(TensorNames, DiffusersVaeStagesFlattenByTheNumberOfResidualBlocks) {
    std::vector<std::string> all = {"decoder.up_blocks.0.resnets.0.norm1.gamma",
                                    "decoder.up_blocks.0.resnets.1.norm1.gamma",
                                    "decoder.up_blocks.0.resnets.2.norm1.gamma"};
    const auto name = [&](const std::string& text) { return mapped("wan-vae", all, text); };
    EXPECT_EQ(name("decoder.up_blocks.2.resnets.1.conv2.bias"),
              "decoder.upsamples.9.residual.6.bias");
    EXPECT_EQ(name("decoder.up_blocks.1.upsamplers.0.time_conv.weight"),
              "decoder.upsamples.7.time_conv.weight");
    EXPECT_EQ(name("decoder.up_blocks.1.resnets.0.conv_shortcut.weight"),
              "decoder.upsamples.4.shortcut.weight");
    // The published conversion script leaves a shortcut it does not know at its flat index.
    EXPECT_EQ(name("decoder.up_blocks.8.conv_shortcut.bias"), "decoder.upsamples.8.shortcut.bias");
    EXPECT_EQ(name("decoder.mid_block.attentions.0.to_qkv.weight"),
              "decoder.middle.1.to_qkv.weight");
    EXPECT_EQ(name("encoder.mid_block.resnets.1.norm2.gamma"), "encoder.middle.2.residual.3.gamma");
    EXPECT_EQ(name("encoder.down_blocks.5.time_conv.bias"), "encoder.downsamples.5.time_conv.bias");
    EXPECT_EQ(name("post_quant_conv.weight"), "conv2.weight");
    EXPECT_EQ(name("encoder.conv_out.weight"), "encoder.head.2.weight");
    all.push_back("decoder.up_blocks.0.resnets.3.norm1.gamma");  // three residual blocks a stage
    EXPECT_EQ(name("decoder.up_blocks.2.resnets.1.conv2.bias"),
              "decoder.upsamples.11.residual.6.bias");
}

TEST(CheckpointTest, OpensFileFolderAndShardsAlike) {
    const TemporaryFolder folder;
    write_tensors(folder / "one/model.safetensors", {"a", "b"});
    for (const char* path : {"one", "one/model.safetensors"}) {
        const auto checkpoint = Checkpoint::open(folder / path, network_kind("wan-dit"));
        EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b"}));
    }
    write_tensors(folder / "two/m-1.safetensors", {"a"});
    write_tensors(folder / "two/m-2.safetensors", {"b"});
    write_text(folder / "two/m.safetensors.index.json",
               R"({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}})");
    const auto sharded = Checkpoint::open(folder / "two", network_kind("wan-dit"));
    EXPECT_EQ(sharded.names(), (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(to_float(sharded.at("b")), std::vector<float>{0.0f});
    write_tensors(folder / "variants/model.safetensors", {"a"});
    write_tensors(folder / "variants/model.fp16.safetensors", {"other"});
    const auto chosen = Checkpoint::open(folder / "variants", network_kind("wan-dit"));
    EXPECT_EQ(chosen.names(), std::vector<std::string>{"a"});
}

TEST(CheckpointTest, RefusesAmbiguousFoldersAndEscapingShards) {
    const TemporaryFolder folder;
    std::filesystem::create_directories(folder / "empty");
    expect_error(ErrorCode::io, {"'", "empty'", "holds no .safetensors or .gguf file"},
                 [&] { Checkpoint::open(folder / "empty", network_kind("wan-vae")); });
    write_tensors(folder / "many/a.safetensors", {"a"});
    write_tensors(folder / "many/b.safetensors", {"b"});
    expect_error(ErrorCode::bad_file, {"a.safetensors, b.safetensors"},
                 [&] { Checkpoint::open(folder / "many", network_kind("wan-vae")); });
    write_text(folder / "evil/m.safetensors.index.json",
               R"({"weight_map": {"a": "../many/a.safetensors"}})");
    expect_error(ErrorCode::bad_file, {"tensor 'a'", "no file name"},
                 [&] { Checkpoint::open(folder / "evil", network_kind("wan-vae")); });
    write_text(folder / "gone/m.safetensors.index.json",
               R"({"weight_map": {"a": "m-1.safetensors"}})");
    expect_error(ErrorCode::io, {"m-1.safetensors"},
                 [&] { Checkpoint::open(folder / "gone", network_kind("wan-vae")); });
    write_text(folder / "bad/m.safetensors.index.json", "{}");
    expect_error(ErrorCode::bad_file, {"no weight_map"},
                 [&] { Checkpoint::open(folder / "bad", network_kind("wan-vae")); });
}

TEST(CheckpointTest, NamesTensorFileAndBothShapes) {
    const TemporaryFolder folder;
    write_tensors(folder / "m.safetensors", {"a"});
    const auto checkpoint = Checkpoint::open(folder / "m.safetensors", network_kind("wan-dit"));
    expect_error(ErrorCode::bad_file, {"no tensor 'z'", "m.safetensors"},
                 [&] { checkpoint.at("z"); });
    expect_error(ErrorCode::bad_file, {"'a'", "m.safetensors", "[1]", "[2, 3]"}, [&] {
        checkpoint.at("a", {2, 3});
    });
}

TEST(CheckpointTest, RefusesRepeatedTensors) {
    const TemporaryFolder folder;
    write_tensors(folder / "twice/m-1.safetensors", {"a"});
    write_tensors(folder / "twice/m-2.safetensors", {"a", "b"});
    write_text(folder / "twice/m.safetensors.index.json",
               R"({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}})");
    expect_error(ErrorCode::bad_file, {"'a' more than once"},
                 [&] { Checkpoint::open(folder / "twice", network_kind("wan-dit")); });
}

/// The reference cases that come in both layouts: these hold the same weights.
class GoldenLayouts : public testing::Test {
  protected:
    void SetUp() override {
        root_ = golden_root();
        if (root_.empty()) {
            GTEST_SKIP() << "no reference data: QUANTSPARSE_GOLDEN is not set";
        }
    }
    void expect_same(const std::string& case_name, const char* kind_name) {
        const auto& kind = network_kind(kind_name);
        const auto ours = Checkpoint::open(root_ / case_name / "model.safetensors", kind);
        const auto theirs =
            Checkpoint::open(root_ / case_name / "diffusers" / "model.safetensors", kind);
        ASSERT_EQ(ours.names(), theirs.names());
        for (const auto& name : ours.names()) {
            EXPECT_EQ(to_float(ours.at(name)), to_float(theirs.at(name))) << name;
        }
    }
    std::filesystem::path root_;
};

TEST_F(GoldenLayouts, DiffusersTransformerEqualsTheOriginal) {
    expect_same("wan-dit-plain", "wan-dit");
}

TEST_F(GoldenLayouts, TransformersTextEncoderEqualsTheOriginal) {
    expect_same("umt5-plain", "umt5");
}

TEST_F(GoldenLayouts, DiffusersVaeNamesMapBackOneByOne) {
    for (const char* case_name : {"wan-vae-z16", "wan-vae-z4-f16"}) {
        std::ifstream stream(root_ / case_name / "diffusers" / "name_map.json");
        const auto map = nlohmann::json::parse(stream).at("map");
        std::vector<std::string> all;
        for (const auto& [original, diffusers] : map.items()) {
            all.push_back(diffusers.get<std::string>());
        }
        const auto canonical = network_kind("wan-vae").renamer(all);
        for (const auto& [original, diffusers] : map.items()) {
            EXPECT_EQ(canonical(diffusers.get<std::string>()), original);
        }
    }
}

TEST_F(GoldenLayouts, RequiredTensorsAreExactlyThoseOfTheReference) {
    const auto compare = [](const NetworkKind& kind, const std::filesystem::path& path,
                            const nlohmann::json& json) {
        const auto checkpoint = Checkpoint::open(path, kind);
        std::set<std::string> names;
        for (const auto& tensor : kind.describe(json, &checkpoint, path.string()).tensors) {
            names.insert(tensor.name);
            EXPECT_NO_THROW(checkpoint.at(tensor.name, tensor.shape));
        }
        const auto present = checkpoint.names();
        EXPECT_EQ(names, std::set<std::string>(present.begin(), present.end()));
    };
    const auto config = [&](const std::string& name) {
        std::ifstream stream(root_ / name / "case.json");
        auto json = nlohmann::json::parse(stream);
        auto inner = json.at("config");
        for (const char* key : {"latents_mean", "latents_std"}) {
            if (json.contains(key)) {
                inner[key] = json[key];
            }
        }
        return inner;
    };
    const auto weights = [&](const std::string& name) {
        const auto index = root_ / name / "model.safetensors.index.json";
        return std::filesystem::exists(index) ? index : root_ / name / "model.safetensors";
    };
    for (const char* name : {"wan-dit-plain", "wan-dit-odd", "wan-dit-hd128"}) {
        if (!std::filesystem::exists(root_ / name)) continue;  // the large case is not in the tree
        compare(network_kind("wan-dit"), weights(name), config(name));
    }
    for (const char* name : {"umt5-plain", "umt5-long-f32"}) {
        compare(network_kind("umt5"), weights(name), config(name));
    }
    for (const char* name : {"wan-vae-z16", "wan-vae-z4-f16"}) {
        compare(network_kind("wan-vae"), weights(name), config(name));
    }
}

}  // namespace
}  // namespace quantsparse::format::test
