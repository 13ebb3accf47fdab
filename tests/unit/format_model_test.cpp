#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "format/bit_packing.hpp"
#include "format/mapped_file.hpp"
#include "format/model_file.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::format::test {
namespace {

using nlohmann::json;

const WanDitConfig& transformer(const ModelBundle& bundle) {
    return bundle.network("transformer").config_as<WanDitConfig>();
}
const Umt5Config& text_encoder(const ModelBundle& bundle) {
    return bundle.network("text_encoder").config_as<Umt5Config>();
}
const WanVaeConfig& vae(const ModelBundle& bundle) {
    return bundle.network("vae").config_as<WanVaeConfig>();
}

class OpenModelTest : public testing::Test {
  protected:
    void SetUp() override { tiny_.write_diffusers_folder(folder_.path()); }

    void edit_json(const std::string& name, const std::function<void(json&)>& change) {
        auto value = json::parse(read_small_text(folder_ / name, 1 << 20));
        change(value);
        write_text(folder_ / name, value.dump());
    }
    void expect_refused(ErrorCode code, const std::vector<std::string>& pieces) {
        expect_error(code, pieces, [&] { open_model(folder_.path()); });
    }

    TinyModel tiny_;
    TemporaryFolder folder_;
};

TEST_F(OpenModelTest, ReadsADiffusersFolderWithItsDefaults) {
    const auto bundle = open_model(folder_.path());
    EXPECT_EQ(bundle.architecture, "wan2.1-t2v");
    EXPECT_EQ(bundle.quantization.name(), "none");
    EXPECT_EQ(transformer(bundle).dim, 64);
    EXPECT_EQ(transformer(bundle).text_len, 16);
    EXPECT_EQ(text_encoder(bundle).text_len, 16);
    EXPECT_EQ(bundle.defaults.native_width, 64);
    EXPECT_EQ(bundle.defaults.native_frames, 9);
    EXPECT_EQ(bundle.defaults.steps, 8);
    EXPECT_DOUBLE_EQ(bundle.defaults.guidance_scale, 4.0);
    EXPECT_DOUBLE_EQ(bundle.defaults.flow_shift, 3.0);
    EXPECT_EQ(bundle.tokenizer("tokenizer").size(), std::string("\x01 no real tokenizer").size());
    EXPECT_EQ(bundle.at("transformer").checkpoint->at("blocks.1.ffn.0.weight").shape,
              (std::vector<std::int64_t>{160, 64}));
}

TEST_F(OpenModelTest, AcceptsDiffusersFieldNames) {
    edit_json("transformer/config.json", [](json& config) {
        config = {{"_class_name", "WanTransformer3DModel"},
                  {"num_attention_heads", 2},
                  {"attention_head_dim", 32},
                  {"in_channels", 16},
                  {"out_channels", 16},
                  {"num_layers", 2},
                  {"ffn_dim", 160},
                  {"freq_dim", 32},
                  {"text_dim", 32},
                  {"text_len", 16},
                  {"qk_norm", "rms_norm_across_heads"},
                  {"image_dim", nullptr},
                  {"added_kv_proj_dim", nullptr}};
    });
    const auto bundle = open_model(folder_.path());
    EXPECT_EQ(transformer(bundle).dim, 64);
    EXPECT_TRUE(transformer(bundle).qk_norm);
}

TEST_F(OpenModelTest, NamesAPathThatDoesNotExist) {
    expect_error(ErrorCode::io, {"nowhere", "does not exist"},
                 [&] { open_model(folder_ / "nowhere"); });
}

TEST_F(OpenModelTest, RefusesUnknownArchitectures) {
    edit_json("model_index.json", [](json& index) { index["_class_name"] = "FluxPipeline"; });
    expect_refused(ErrorCode::unsupported, {"FluxPipeline", "WanPipeline"});
    edit_json("model_index.json", [](json& index) { index["_class_name"] = "WanPipeline"; });
    edit_json("transformer/config.json",
              [](json& config) { config["_class_name"] = "HunyuanVideoTransformer3DModel"; });
    expect_refused(ErrorCode::unsupported,
                   {"transformer/config.json", "HunyuanVideoTransformer3DModel"});
    edit_json("transformer/config.json", [](json& config) {
        config["_class_name"] = "WanTransformer3DModel";
        config["model_type"] = "i2v";
    });
    expect_refused(ErrorCode::unsupported, {"takes an image"});
}

TEST_F(OpenModelTest, NamesAllMissingTensorsInOneLine) {
    auto tensors = tiny_.transformer_network().tensors;
    std::erase_if(tensors, [](const TensorSpec& tensor) {
        return tensor.name == "head.head.bias" || tensor.name == "blocks.1.norm3.weight";
    });
    write_network(folder_ / "transformer/diffusion_pytorch_model.safetensors", tensors);
    expect_refused(ErrorCode::bad_file,
                   {"2 tensors of the transformer", "blocks.1.norm3.weight", "head.head.bias"});
    std::erase_if(tensors,
                  [](const TensorSpec& tensor) { return tensor.name.starts_with("blocks.0"); });
    write_network(folder_ / "transformer/diffusion_pytorch_model.safetensors", tensors);
    expect_refused(ErrorCode::bad_file, {"29 tensors of the transformer", "and 21 more"});
}

TEST_F(OpenModelTest, NamesTheFirstTensorOfAnotherShape) {
    auto other = tiny_.transformer;
    other.ffn_dim = 96;
    write_network(folder_ / "transformer/diffusion_pytorch_model.safetensors",
                  describe_wan_dit(other).tensors);
    expect_refused(ErrorCode::bad_file, {"'blocks.0.ffn.0.weight'", "[96, 64]", "[160, 64]"});
}

TEST_F(OpenModelTest, ProjectionsOfSparseLinearAttentionAreInAllBlocksOrInNone) {
    EXPECT_FALSE(open_model(folder_.path()).network("transformer").sparse_linear);
    auto trained = tiny_.transformer;
    trained.sparse_linear = true;
    auto tensors = describe_wan_dit(trained).tensors;
    const auto weights = folder_ / "transformer/diffusion_pytorch_model.safetensors";
    write_network(weights, tensors);
    EXPECT_TRUE(open_model(folder_.path()).network("transformer").sparse_linear);
    const std::string name = "blocks.1.self_attn.attn_op.local_attn.proj_l.";
    for (TensorSpec& tensor : tensors) {
        if (tensor.name == name + "weight") tensor.shape = {64, 64};
    }
    write_network(weights, tensors);
    expect_refused(ErrorCode::bad_file, {name + "weight", "[64, 64]", "[32, 32]"});
    std::erase_if(tensors, [&](const TensorSpec& t) { return t.name.starts_with(name); });
    write_network(weights, tensors);
    expect_refused(ErrorCode::bad_file,
                   {"2 tensors of the transformer", name + "weight", name + "bias"});
}

TEST_F(OpenModelTest, APatchEmbeddingMayBeALinear) {
    auto tensors = tiny_.transformer_network().tensors;
    ASSERT_EQ(tensors.front().name, "patch_embedding.weight");
    tensors.front().shape = {64, 64};
    const auto weights = folder_ / "transformer/diffusion_pytorch_model.safetensors";
    write_network(weights, tensors);
    EXPECT_NO_THROW(open_model(folder_.path()));
    tensors.front().shape = {64, 96};
    write_network(weights, tensors);
    expect_refused(ErrorCode::bad_file, {"patch_embedding.weight", "[64, 96]", "[64, 64]"});
}

TEST_F(OpenModelTest, RefusesWeightsThatAreIntegers) {
    SafetensorsWriter writer(folder_ / "text_encoder/model.safetensors");
    for (const auto& tensor : tiny_.text_encoder_network().tensors) {
        writer.declare(tensor.name, DType::i32, tensor.shape);
    }
    for (const auto& tensor : tiny_.text_encoder_network().tensors) {
        std::size_t count = 1;
        for (const auto dimension : tensor.shape) {
            count *= static_cast<std::size_t>(dimension);
        }
        writer.write(tensor.name, bytes_of(std::vector<std::int32_t>(count)));
    }
    writer.finish();
    expect_refused(ErrorCode::bad_file, {"text_encoder/model.safetensors", "dtype I32"});
}

TEST_F(OpenModelTest, RefusesNetworksThatDoNotBelongTogether) {
    edit_json("text_encoder/config.json", [](json& config) { config["dim"] = 48; });
    expect_refused(ErrorCode::bad_file, {"text_dim is 32", "dim is 48"});
    edit_json("text_encoder/config.json", [](json& config) { config["dim"] = 32; });
    edit_json("transformer/config.json", [](json& config) {
        config["in_dim"] = 4;
        config["out_dim"] = 4;
    });
    expect_refused(ErrorCode::bad_file, {"in_dim is 4", "z_dim is 16"});
}

TEST_F(OpenModelTest, RefusesConfigurationsThatMakeNoSense) {
    const auto try_value = [&](const char* key, const json& value, const char* piece) {
        edit_json("transformer/config.json", [&](json& config) { config[key] = value; });
        expect_refused(ErrorCode::bad_file, {"transformer/config.json", piece});
        write_text(folder_ / "transformer/config.json",
                   config_of(tiny_.transformer_network()).dump());
    };
    try_value("num_heads", 0, "num_heads is 0");
    try_value("num_heads", 3, "3 heads");
    try_value("ffn_dim", -160, "ffn_dim is -160");
    try_value("ffn_dim", "160", "ffn_dim is \"160\"");
    try_value("dim", 1e300, "dim is 1e+300");
    try_value("patch_size", json::array({1, 2}), "patch_size");
    try_value("eps", 0, "eps is 0");
    write_text(folder_ / "vae/config.json", "{");
    expect_refused(ErrorCode::bad_file, {"vae/config.json", "not a JSON object"});
}

TEST_F(OpenModelTest, NamesTheFolderThatIsMissing) {
    std::filesystem::remove_all(folder_ / "vae");
    expect_refused(ErrorCode::io, {"lacks the folder 'vae'"});
}

TEST_F(OpenModelTest, AnOriginalFolderWithPthFilesSaysHowToConvertThem) {
    const TemporaryFolder original;
    write_network(original / "diffusion_pytorch_model.safetensors",
                  tiny_.transformer_network().tensors);
    write_text(original / "models_t5_umt5-xxl-enc-bf16.pth", "x");
    expect_error(ErrorCode::unsupported, {"models_t5", ".pth", "quantsparse-calibrate"},
                 [&] { open_model(original.path()); });
}

TEST_F(OpenModelTest, ReadsAnOriginalFolderByShapes) {
    const TemporaryFolder original;
    auto config = tiny_;
    config.transformer.num_heads = 1;  // head width 64, what shapes without a config mean
    config.transformer.text_len = 512;
    write_network(original / "diffusion_pytorch_model.safetensors",
                  config.transformer_network().tensors);
    write_network(original / "models_t5_umt5-xxl-enc-bf16.safetensors",
                  config.text_encoder_network().tensors);
    write_network(original / "Wan2.1_VAE.safetensors", config.vae_network().tensors);
    expect_error(ErrorCode::io, {"spiece.model"}, [&] { open_model(original.path()); });
    write_text(original / "google/umt5-xxl/spiece.model", "bytes");
    const auto bundle = open_model(original.path());
    EXPECT_EQ(transformer(bundle).num_heads, 1);
    EXPECT_EQ(transformer(bundle).ffn_dim, 160);
    EXPECT_EQ(text_encoder(bundle).num_heads, 2);
    EXPECT_EQ(vae(bundle).dim, 4);
    EXPECT_EQ(transformer(bundle).text_len, 512);
}

/// A quantised file with the tiny model's shapes and constant content.
class ModelFileTest : public OpenModelTest {
  protected:
    std::filesystem::path write(
        int bits, const std::function<void(std::map<std::string, std::string>&)>& change = {},
        const std::string& leave_out = {}, const std::string& spoiled = {},
        const std::vector<TensorSpec>& beside = {}) {
        const auto source = open_model(folder_.path());
        const auto path = folder_ / "model.safetensors";
        SafetensorsWriter writer(path);
        auto metadata =
            model_file_metadata(source, json{{"weight_bits", bits}, {"activation_bits", 8}}.dump());
        if (change) {
            change(metadata);
        }
        for (const auto& [key, value] : metadata) {
            writer.set_metadata(key, value);
        }
        std::vector<TensorSpec> plain;
        std::vector<LinearSpec> linears;
        for (const auto& block : tiny_.transformer_network().blocks) {
            const auto of_block = linears_of(block);
            linears.insert(linears.end(), of_block.begin(), of_block.end());
        }
        const auto is_linear = [&](const std::string& name) {
            return std::any_of(linears.begin(), linears.end(), [&](const LinearSpec& linear) {
                return name == linear.name + ".weight";
            });
        };
        for (const auto& tensor : tiny_.transformer_network().tensors) {
            if (!is_linear(tensor.name)) {
                plain.push_back({"transformer." + tensor.name, tensor.shape});
            }
        }
        for (const auto& linear : linears) {
            plain.push_back({"transformer." + linear.name + ".codes",
                             codes_shape(linear.out_features, linear.in_features, bits)});
            plain.push_back({"transformer." + linear.name + ".scale", {linear.out_features}});
            plain.push_back(
                {"transformer." + linear.name + ".channel_scale", {linear.in_features}});
        }
        for (const auto& tensor : tiny_.text_encoder_network().tensors) {
            plain.push_back({"text_encoder." + tensor.name, tensor.shape});
        }
        for (const auto& tensor : tiny_.vae_network().tensors) {
            plain.push_back({"vae." + tensor.name, tensor.shape});
        }
        plain.push_back({"tokenizer.model", {5}});
        plain.insert(plain.end(), beside.begin(), beside.end());
        std::erase_if(plain, [&](const TensorSpec& tensor) { return tensor.name == leave_out; });
        const auto dtype = [](const std::string& name) {
            return name == "tokenizer.model"  ? DType::u8
                   : name.ends_with(".codes") ? DType::u32
                                              : DType::f32;
        };
        for (const auto& tensor : plain) {
            writer.declare(tensor.name, dtype(tensor.name), tensor.shape);
        }
        for (const auto& tensor : plain) {
            auto bytes = static_cast<std::size_t>(block_of(dtype(tensor.name)).bytes);
            for (const auto dimension : tensor.shape) {
                bytes *= static_cast<std::size_t>(dimension);
            }
            std::vector<std::byte> content(bytes, std::byte{0x11});
            if (tensor.name.ends_with("scale")) {
                const std::vector<float> ones(bytes / 4, tensor.name == spoiled ? -1.0f : 1.0f);
                std::memcpy(content.data(), ones.data(), bytes);
            }
            writer.write(tensor.name, content);
        }
        writer.finish();
        return path;
    }
};

TEST_F(ModelFileTest, ReadsBackWhatTheMetadataSay) {
    for (const int bits : {4, 6, 8}) {
        const auto bundle = open_model(write(bits));
        EXPECT_EQ(bundle.quantization.bits.weights, bits);
        EXPECT_EQ(bundle.quantization.name(), fmt::format("w{}a8", bits));
        EXPECT_EQ(bundle.defaults.native_width, 64);
        EXPECT_EQ(bundle.defaults.steps, 8);
        EXPECT_DOUBLE_EQ(bundle.defaults.flow_shift, 3.0);
        EXPECT_EQ(transformer(bundle).ffn_dim, 160);
        EXPECT_EQ(text_encoder(bundle).vocab_size, 72);
        EXPECT_EQ(vae(bundle).latents_std.size(), 16U);
        EXPECT_EQ(bundle.tokenizer("tokenizer").size(), 5U);
        EXPECT_NE(bundle.at("transformer").checkpoint->find("blocks.0.ffn.0.codes"), nullptr);
        EXPECT_EQ(bundle.at("transformer").checkpoint->find("blocks.0.ffn.0.weight"), nullptr);
        EXPECT_EQ(bundle.at("text_encoder").checkpoint->find("patch_embedding.weight"), nullptr);
    }
}

TEST_F(ModelFileTest, CountsTheBytesOfTheLinears) {
    const auto bundle = open_model(write(4));
    const auto bytes = linear_bytes(bundle.at("transformer"));
    const std::uint64_t weights = 2 * (8 * 64 * 64 + 2 * 160 * 64);
    EXPECT_EQ(bytes.bf16, 2 * weights);
    EXPECT_EQ(bytes.stored, weights / 2 + 4 * 2 * (9 * 64 + 160));
    EXPECT_EQ(bytes.input_vectors, 4U * 2 * (9 * 64 + 160));
}

TEST_F(ModelFileTest, AProductBesideCodesHasTwoMatricesOfOneRank) {
    const std::string linear = "transformer.blocks.0.ffn.0";  // 64 to 160
    const auto with = [&](const std::vector<TensorSpec>& beside) {
        return write(4, {}, {}, {}, beside);
    };
    const auto bytes = [](const std::filesystem::path& path) {
        return linear_bytes(open_model(path).at("transformer")).stored;
    };
    const TensorSpec down{linear + ".lora_down", {3, 64}}, up{linear + ".lora_up", {160, 3}};
    const auto without = bytes(write(4));
    EXPECT_EQ(bytes(with({down, up})), without + 4 * 3 * (64 + 160));
    expect_error(ErrorCode::bad_file, {"lora_up"}, [&] { open_model(with({down})); });
    expect_error(ErrorCode::bad_file, {"lora_down"}, [&] { open_model(with({up})); });
    expect_error(ErrorCode::bad_file, {"lora_up"}, [&] {
        open_model(with({down, {linear + ".lora_up", {160, 2}}}));
    });
}

TEST_F(ModelFileTest, RefusesNewerVersionsAndOtherArchitectures) {
    const auto with = [&](const char* key, const std::string& value) {
        return write(4, [&](auto& metadata) { metadata[key] = value; });
    };
    expect_error(ErrorCode::unsupported, {"version 4", "newer than the 3", "update"},
                 [&] { open_model(with("version", "4")); });
    expect_error(ErrorCode::bad_file, {"'1.5' is no version number"},
                 [&] { open_model(with("version", "1.5")); });
    expect_error(ErrorCode::unsupported, {"unknown architecture 'wan9'"},
                 [&] { open_model(with("architecture", "wan9")); });
    expect_error(ErrorCode::unsupported, {"whole model in one file"},
                 [&] { open_model(with("format", "pt")); });
    expect_error(ErrorCode::bad_file, {"weight_bits"},
                 [&] { open_model(with("quantization", R"({"weight_bits":5})")); });
    expect_error(ErrorCode::bad_file, {"config", "lacks 'transformer'"},
                 [&] { open_model(with("config", "{}")); });
    expect_error(ErrorCode::bad_file, {"lacks the metadata entry 'quantization'"}, [&] {
        open_model(write(4, [](auto& metadata) { metadata.erase("quantization"); }));
    });
}

TEST_F(ModelFileTest, HoldsTheDriftOrSaysWhatIsWrongWithIt) {
    const auto with = [&](const nlohmann::json& drift) {
        return write(4, [&](auto& metadata) {
            metadata["quantization"] =
                nlohmann::json{{"weight_bits", 4}, {"activation_bits", 8}, {"drift", drift}}.dump();
        });
    };
    std::vector<double> levels(kDriftLevels, 0.5);
    levels[0] = 0;
    levels[49] = 0.75;
    const auto drift = open_model(with(levels)).quantization.drift;
    ASSERT_EQ(drift.size(), kDriftLevels);
    EXPECT_EQ(drift[0], 0);
    EXPECT_EQ(drift[48], 0.5f);
    EXPECT_EQ(drift[49], 0.75f);
    EXPECT_TRUE(open_model(write(4)).quantization.drift.empty());
    auto falling = levels, endless = levels, longer = levels, negative = levels;
    falling[30] = 0.4;
    endless[49] = 1e300;
    longer.push_back(1);
    negative[0] = -1;
    for (const nlohmann::json& wrong :
         {nlohmann::json(falling), nlohmann::json(endless), nlohmann::json(longer),
          nlohmann::json(negative), nlohmann::json::array(), nlohmann::json("none"),
          nlohmann::json(std::vector<std::string>(kDriftLevels, "0"))}) {
        expect_error(ErrorCode::bad_file, {"drift", "50 numbers"},
                     [&] { open_model(with(wrong)); });
    }
}

TEST_F(ModelFileTest, RefusesScalesThatAreNotPositive) {
    const std::string name = "transformer.blocks.1.ffn.0.channel_scale";
    expect_error(ErrorCode::bad_file, {"'blocks.1.ffn.0.channel_scale'", "not positive"},
                 [&] { open_model(write(4, {}, {}, name)); });
}

TEST_F(ModelFileTest, NamesMissingAndWronglyPackedTensors) {
    expect_error(ErrorCode::bad_file,
                 {"1 tensor of the transformer", "blocks.1.cross_attn.k.codes"},
                 [&] { open_model(write(4, {}, "transformer.blocks.1.cross_attn.k.codes")); });
    expect_error(ErrorCode::bad_file, {"'blocks.0.self_attn.q.codes'", "[8, 64]", "[16, 64]"}, [&] {
        open_model(write(4, [](auto& metadata) {
            metadata["quantization"] = R"({"weight_bits":8,"activation_bits":8})";
        }));
    });
}

}  // namespace
}  // namespace quantsparse::format::test
