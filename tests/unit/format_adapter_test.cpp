#include "format/adapter_merge.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "unit/format_support.hpp"

namespace quantsparse::format::test {
namespace {

struct StoredTensor {
    std::string name;
    std::vector<std::int64_t> shape;
    std::vector<float> values;  ///< empty: test_values
};

void write_adapter(const std::filesystem::path& path, std::vector<StoredTensor> tensors,
                   const std::map<std::string, std::string>& metadata = {}) {
    SafetensorsWriter writer(path);
    for (const auto& [key, value] : metadata) {
        writer.set_metadata(key, value);
    }
    std::uint32_t seed = 100;
    for (auto& tensor : tensors) {
        writer.declare(tensor.name, DType::f32, tensor.shape);
        std::size_t count = 1;
        for (const auto dimension : tensor.shape) {
            count *= static_cast<std::size_t>(dimension);
        }
        if (tensor.values.empty()) {
            tensor.values = test_values(count, seed++, 0.5f);
        }
    }
    for (const auto& tensor : tensors) {
        writer.write(tensor.name, bytes_of(tensor.values));
    }
    writer.finish();
}

class LoraFile : public testing::Test {
  protected:
    static constexpr std::int64_t kDim = 64;  ///< of TinyModel

    AdapterChanges changes(const std::vector<StoredTensor>& tensors,
                           const std::map<std::string, std::string>& metadata = {},
                           ExpertPlace expert = {}) {
        write_adapter(folder_ / "lora.safetensors", tensors, metadata);
        return AdapterFile(folder_ / "lora.safetensors")
            .changes_for(TinyModel().transformer_network(), expert);
    }
    /// A pair of rank 4 for a linear of [dim, dim].
    static std::vector<StoredTensor> pair(const std::string& down, const std::string& up,
                                          std::int64_t rank = 4) {
        return {{down, {rank, kDim}, {}}, {up, {kDim, rank}, {}}};
    }
    /// A pair of ComfyUI's and more tensors.
    static std::vector<StoredTensor> query_pair(const std::vector<StoredTensor>& more = {}) {
        auto tensors = pair(kQuery + ".lora_down.weight", kQuery + ".lora_up.weight");
        tensors.insert(tensors.end(), more.begin(), more.end());
        return tensors;
    }
    void expect_refusal(ErrorCode code, const std::vector<std::string>& pieces,
                        const std::vector<StoredTensor>& tensors,
                        const std::map<std::string, std::string>& metadata = {}) {
        expect_error(code, pieces, [&] { changes(tensors, metadata); });
    }
    static double factor(const AdapterChanges& changes) {
        return changes.tensors.at("blocks.0.self_attn.q.weight").low_rank.at(0).factor;
    }

    static inline const std::string kQuery = "diffusion_model.blocks.0.self_attn.q";
    TemporaryFolder folder_;
};

TEST_F(LoraFile, EverySpellingOfAPairIsTheSameLinear) {
    const std::pair<const char*, const char*> spellings[] = {
        {"diffusion_model.blocks.0.self_attn.q.lora_down.weight",
         "diffusion_model.blocks.0.self_attn.q.lora_up.weight"},
        {"diffusion_model.blocks.0.self_attn.q.lora_A.weight",
         "diffusion_model.blocks.0.self_attn.q.lora_B.weight"},
        {"model.diffusion_model.blocks.0.self_attn.q.lora_A",
         "model.diffusion_model.blocks.0.self_attn.q.lora_B"},
        {"base_model.model.blocks.0.self_attn.q.lora_A.default.weight",
         "base_model.model.blocks.0.self_attn.q.lora_B.default.weight"},
        {"blocks.0.self_attn.q.lora_A.weight", "blocks.0.self_attn.q.lora_B.weight"},
        {"lora_unet_blocks_0_self_attn_q.lora_down.weight",
         "lora_unet_blocks_0_self_attn_q.lora_up.weight"},
        {"lora_unet__blocks_0_self_attn_q.lora_down.weight",
         "lora_unet__blocks_0_self_attn_q.lora_up.weight"},
        {"transformer.blocks.0.attn1.to_q.lora_A.weight",
         "transformer.blocks.0.attn1.to_q.lora_B.weight"},
        {"transformer.blocks.0.attn1.to_q_lora.down.weight",
         "transformer.blocks.0.attn1.to_q_lora.up.weight"},
        {"transformer.blocks.0.attn1.to_q.lora.down.weight",
         "transformer.blocks.0.attn1.to_q.lora.up.weight"},
        {"transformer.blocks.0.attn1.to_q.lora_linear_layer.down.weight",
         "transformer.blocks.0.attn1.to_q.lora_linear_layer.up.weight"},
    };
    for (const auto& [down, up] : spellings) {
        const auto found = changes(pair(down, up));
        ASSERT_EQ(found.tensors.size(), 1u) << down;
        EXPECT_EQ(found.tensors.begin()->first, "blocks.0.self_attn.q.weight") << down;
        EXPECT_EQ(found.tensors.begin()->second.low_rank.at(0).down.name, down);
        EXPECT_EQ(found.tensors.begin()->second.low_rank.at(0).up.name, up);
        EXPECT_TRUE(found.unused.empty()) << down;
    }
}

TEST_F(LoraFile, AlphaIsDividedByTheRank) {
    EXPECT_EQ(factor(changes(query_pair())), 1.0);
    EXPECT_EQ(factor(changes(query_pair({{kQuery + ".alpha", {}, {2.0f}}}))), 0.5);
    EXPECT_EQ(factor(changes(query_pair({{kQuery + ".alpha", {1}, {0.0f}}}))), 0.0);
}

TEST_F(LoraFile, AlphaOfPeftComesFromTheHeader) {
    const auto with = [&](const std::string& json) {
        return factor(changes(pair("transformer.blocks.0.attn1.to_q.lora_A.weight",
                                   "transformer.blocks.0.attn1.to_q.lora_B.weight"),
                              {{"lora_adapter_metadata", json}}));
    };
    EXPECT_EQ(with(R"({"transformer.r": 4, "transformer.lora_alpha": 12})"), 3.0);
    EXPECT_EQ(with(R"({"transformer.lora_alpha": 12, "transformer.use_rslora": true})"), 6.0);
    EXPECT_EQ(with(R"({"transformer.lora_alpha": 12,)"
                   R"( "transformer.alpha_pattern": {"blocks.0.attn1.to_q": 2}})"),
              0.5);
    EXPECT_EQ(with(R"({"transformer.lora_alpha": 12,)"
                   R"( "transformer.alpha_pattern": {"attn1.to_q": 8}})"),
              2.0);
    EXPECT_EQ(with(R"({"transformer.lora_alpha": 12,)"
                   R"( "transformer.alpha_pattern": {"n1.to_q": 8, "attn2.to_q": 8}})"),
              3.0);
}

TEST_F(LoraFile, DifferencesGoToWeightBiasAndModulation) {
    const auto found = changes({{"diffusion_model.blocks.1.norm3.diff", {kDim}, {}},
                                {"diffusion_model.blocks.1.norm3.diff_b", {kDim}, {}},
                                {"diffusion_model.blocks.1.diff_m", {1, 6, kDim}, {}},
                                {"diffusion_model.head.diff_m", {2, kDim}, {}},
                                {"diffusion_model.patch_embedding.diff", {kDim, 16, 1, 2, 2}, {}}});
    std::vector<std::string> names;
    for (const auto& [name, change] : found.tensors) {
        names.push_back(name);
        EXPECT_EQ(change.differences.size(), 1u);
        EXPECT_EQ(change.differences.front().factor, 1.0);
    }
    EXPECT_EQ(names, (std::vector<std::string>{"blocks.1.modulation", "blocks.1.norm3.bias",
                                               "blocks.1.norm3.weight", "head.modulation",
                                               "patch_embedding.weight"}));
}

TEST_F(LoraFile, BiasOfTheUpMatrixIsScaledWithIt) {
    const std::string q = "transformer.blocks.0.attn1.to_q";
    auto tensors = pair(q + ".lora_A.weight", q + ".lora_B.weight");
    tensors.push_back({q + ".lora_B.bias", {kDim}, {}});
    const auto found =
        changes(tensors, {{"lora_adapter_metadata", R"({"transformer.lora_alpha": 2})"}});
    EXPECT_EQ(found.tensors.at("blocks.0.self_attn.q.bias").differences.at(0).factor, 0.5);
}

TEST_F(LoraFile, WhatTheModelLacksIsListed) {
    const std::string image = "diffusion_model.blocks.0.cross_attn.k_img";
    auto tensors = query_pair(pair(image + ".lora_down.weight", image + ".lora_up.weight"));
    tensors.push_back({"something_else", {1}, {}});
    EXPECT_EQ(changes(tensors).unused,
              (std::vector<std::string>{image + ".lora_down.weight", image + ".lora_up.weight",
                                        "something_else"}));
}

TEST_F(LoraFile, SecondTransformersModulesAreTheSecondExperts) {
    auto tensors = pair("transformer.blocks.0.attn1.to_q.lora_A.weight",
                        "transformer.blocks.0.attn1.to_q.lora_B.weight");
    for (const auto& tensor : pair("transformer_2.blocks.1.attn1.to_q.lora_A.weight",
                                   "transformer_2.blocks.1.attn1.to_q.lora_B.weight")) {
        tensors.push_back(tensor);
    }
    EXPECT_EQ(changes(tensors, {}, {0, 2}).tensors.begin()->first, "blocks.0.self_attn.q.weight");
    EXPECT_EQ(changes(tensors, {}, {1, 2}).tensors.begin()->first, "blocks.1.self_attn.q.weight");
    const auto only = changes(tensors);
    EXPECT_EQ(only.tensors.size(), 1u);
    EXPECT_EQ(only.unused.size(), 2u);
}

TEST_F(LoraFile, OtherKindsOfAdaptersAreRefusedByName) {
    for (const auto& [ending, kind] :
         {std::pair{".hada_w1_a", "LoHa"}, std::pair{".lokr_w1", "LoKr"},
          std::pair{".dora_scale", "DoRA"}, std::pair{".lora_mid.weight", "lora_mid"},
          std::pair{".oft_blocks", "OFT"}, std::pair{".lora_magnitude_vector", "DoRA"}}) {
        expect_refusal(ErrorCode::unsupported, {kind, kQuery + ending},
                       query_pair({{kQuery + ending, {4, 4}, {}}}));
    }
    const auto peft = [&](const std::string& json) {
        expect_refusal(ErrorCode::unsupported, {"only LoRA is read"},
                       pair("transformer.blocks.0.attn1.to_q.lora_A.weight",
                            "transformer.blocks.0.attn1.to_q.lora_B.weight"),
                       {{"lora_adapter_metadata", json}});
    };
    peft(R"({"transformer.use_dora": true})");
    peft(R"({"transformer.peft_type": "LOHA"})");
}

TEST_F(LoraFile, BrokenFilesAreRefusedWithTheTensorsName) {
    const std::string down = kQuery + ".lora_down.weight", up = kQuery + ".lora_up.weight";
    expect_refusal(ErrorCode::bad_file, {down, "lacks the up"}, {{down, {4, kDim}, {}}});
    expect_refusal(ErrorCode::bad_file, {up, "lacks the down"}, {{up, {kDim, 4}, {}}});
    expect_refusal(ErrorCode::bad_file, {down, "[4, 32]"},
                   {{down, {4, 32}, {}}, {up, {kDim, 4}, {}}});
    expect_refusal(ErrorCode::bad_file, {up, "[64, 3]"},
                   {{down, {4, kDim}, {}}, {up, {kDim, 3}, {}}});
    expect_refusal(ErrorCode::bad_file, {down, "[0, 64]"},
                   {{down, {0, kDim}, {}}, {up, {kDim, 0}, {}}});
    expect_refusal(ErrorCode::bad_file, {down, "[64]"}, {{down, {kDim}, {}}, {up, {kDim, 1}, {}}});
    const float infinity = std::numeric_limits<float>::infinity();
    expect_refusal(ErrorCode::bad_file, {kQuery + ".alpha", "no finite number"},
                   query_pair({{kQuery + ".alpha", {}, {infinity}}}));
    expect_refusal(ErrorCode::bad_file, {kQuery + ".alpha", "one number"},
                   query_pair({{kQuery + ".alpha", {2}, {}}}));
    expect_refusal(ErrorCode::bad_file, {kQuery + ".diff_b", "[63]"},
                   query_pair({{kQuery + ".diff_b", {63}, {}}}));
    expect_refusal(ErrorCode::bad_file, {"two spellings"},
                   query_pair({{kQuery + ".lora_A.weight", {4, kDim}, {}}}));
    expect_refusal(ErrorCode::unsupported, {"twice"},
                   query_pair(pair("lora_unet_blocks_0_self_attn_q.lora_down.weight",
                                   "lora_unet_blocks_0_self_attn_q.lora_up.weight")));
    expect_refusal(ErrorCode::bad_file, {"lora_alpha", "no number"},
                   pair("transformer.blocks.0.attn1.to_q.lora_A.weight",
                        "transformer.blocks.0.attn1.to_q.lora_B.weight"),
                   {{"lora_adapter_metadata", R"({"transformer.lora_alpha": "16"})"}});
}

TEST_F(LoraFile, FilesForSomethingElseSayWhat) {
    expect_refusal(ErrorCode::unsupported, {"no LoRA file", "blocks.0.self_attn.q.weight"},
                   {{"blocks.0.self_attn.q.weight", {kDim, kDim}, {}}});
    expect_refusal(ErrorCode::unsupported, {"changes nothing", "HunyuanVideo"},
                   pair("diffusion_model.double_blocks.0.img_attn_qkv.lora_A.weight",
                        "diffusion_model.double_blocks.0.img_attn_qkv.lora_B.weight"));
}

/// W + sum of strength * factor * up * down, by plain loops in double.
std::vector<double> summed(const std::vector<float>& base, std::int64_t rows,
                           const std::vector<std::pair<LowRankTerm, double>>& terms) {
    std::vector<double> sum(base.begin(), base.end());
    const std::size_t n = static_cast<std::size_t>(rows), k = base.size() / n;
    for (const auto& [term, strength] : terms) {
        const auto down = to_float(term.down), up = to_float(term.up);
        const std::size_t rank = up.size() / n;
        for (std::size_t i = 0; i < sum.size(); ++i) {
            double product = 0;
            for (std::size_t r = 0; r < rank; ++r) {
                product += static_cast<double>(up[i / k * rank + r]) *
                           static_cast<double>(down[r * k + i % k]);
            }
            sum[i] += strength * term.factor * product;
        }
    }
    return sum;
}

class MergedLora : public LoraFile {
  protected:
    void SetUp() override {
        TinyModel().write_diffusers_folder(folder_.path());
        const auto& kind = network_kind("wan-dit");
        base_ = {TinyModel().transformer_network(),
                 std::make_shared<Checkpoint>(Checkpoint::open(folder_ / "transformer", kind))};
    }
    std::shared_ptr<const AdapterFile> file(const std::string& name,
                                            const std::vector<StoredTensor>& tensors) {
        write_adapter(folder_ / name, tensors);
        return std::make_shared<AdapterFile>(folder_ / name);
    }

    Component base_;
};

TEST_F(MergedLora, SeveralAddUpEachWithItsStrength) {
    // Ranks on both sides of the kernel's step of 8; rows longer than its step of 256 would need
    // another model, which the next test has.
    const std::string name = "diffusion_model.blocks.0.ffn.2";
    const auto ffn = [&](std::int64_t rank) {
        return std::vector<StoredTensor>{{name + ".lora_down.weight", {rank, 160}, {}},
                                         {name + ".lora_up.weight", {kDim, rank}, {}},
                                         {name + ".alpha", {}, {3.0f}}};
    };
    const auto one = file("one.safetensors", ffn(11)), two = file("two.safetensors", ffn(2));
    const auto merged = apply_adapters(base_, {{one, 0.6}, {two, -1.5}});
    const auto& network = base_.network;
    const auto& tensor = merged.checkpoint->at("blocks.0.ffn.2.weight");
    EXPECT_EQ(tensor.shape, (std::vector<std::int64_t>{kDim, 160}));
    const auto term = [&](const auto& from) {
        return from->changes_for(network).tensors.at("blocks.0.ffn.2.weight").low_rank.at(0);
    };
    const auto expected = summed(to_float(base_.checkpoint->at("blocks.0.ffn.2.weight")), kDim,
                                 {{term(one), 0.6}, {term(two), -1.5}});
    const auto values = to_float(tensor);
    ASSERT_EQ(values.size(), expected.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
        ASSERT_NEAR(static_cast<double>(values[i]), expected[i], 2e-6) << i;
    }
    // Pieces that begin and end inside rows are the same values.
    for (const auto& [first, count] : {std::pair{0, 7}, std::pair{150, 400}, std::pair{161, 1}}) {
        const auto piece = to_float(tensor.slice(first, count));
        const auto begin = values.begin() + first;
        EXPECT_EQ(piece, std::vector<float>(begin, begin + count)) << first;
    }
    EXPECT_EQ(to_float(merged.checkpoint->at("blocks.1.ffn.2.weight")),
              to_float(base_.checkpoint->at("blocks.1.ffn.2.weight")));
}

TEST_F(MergedLora, LargeWeightsAreTheSameOverThreads) {
    Network network;
    network.kind = "wan-dit";
    network.tensors = {{"large.weight", {700, 900}}};
    write_network(folder_ / "large.safetensors", network.tensors);
    const Component large{network, std::make_shared<Checkpoint>(Checkpoint::open(
                                       folder_ / "large.safetensors", network_kind("wan-dit")))};
    const auto lora = file("lora.safetensors", {{"large.lora_down.weight", {96, 900}, {}},
                                                {"large.lora_up.weight", {700, 96}, {}}});
    const auto merged = apply_adapters(large, {{lora, 1.0}});
    const auto& tensor = merged.checkpoint->at("large.weight");
    const auto whole = to_float(tensor);  // 60 million multiplications: with threads
    const auto expected =
        summed(to_float(large.checkpoint->at("large.weight")), 700,
               {{lora->changes_for(network).tensors.at("large.weight").low_rank.at(0), 1.0}});
    for (std::size_t i = 0; i < whole.size(); ++i) {
        ASSERT_NEAR(static_cast<double>(whole[i]), expected[i], 1e-4) << i;
    }
    for (std::int64_t row = 0; row < 700; row += 137) {
        const auto piece = to_float(tensor.slice(row * 900, 900));
        const auto begin = whole.begin() + row * 900;
        EXPECT_EQ(piece, std::vector<float>(begin, begin + 900)) << row;
    }
}

TEST_F(MergedLora, BesideQuantisedWeightsLieTheStackedMatrices) {
    auto checkpoint = std::make_shared<Checkpoint>(*base_.checkpoint);
    const std::string linear = "blocks.0.self_attn.q";
    TensorView codes = checkpoint->at(linear + ".weight");
    codes.dtype = DType::u32;  // any type that is no weight's
    checkpoint->put(codes);
    codes.name = linear + ".codes";
    checkpoint->put(codes);
    const Component quantised{base_.network, checkpoint};

    auto tensors = query_pair({{kQuery + ".alpha", {}, {2.0f}}});
    const auto one = file("one.safetensors", tensors);
    const auto two =
        file("two.safetensors", pair(kQuery + ".lora_A.weight", kQuery + ".lora_B.weight", 3));
    const auto merged = apply_adapters(quantised, {{one, 0.5}, {two, 2.0}});
    const auto& down = merged.checkpoint->at(linear + kLoraDown, {7, kDim});
    const auto& up = merged.checkpoint->at(linear + kLoraUp, {kDim, 7});
    const auto first = to_float(one->source()->at(kQuery + ".lora_down.weight"));
    const auto second_up = to_float(two->source()->at(kQuery + ".lora_B.weight"));
    const auto first_up = to_float(one->source()->at(kQuery + ".lora_up.weight"));
    EXPECT_EQ(to_float(down.slice(0, 4 * kDim)), first);
    const auto up_values = to_float(up);
    EXPECT_EQ(up_values[7 * 5 + 1], 0.25f * first_up[4 * 5 + 1]);  // 0.5 * 2 / 4
    EXPECT_EQ(up_values[7 * 5 + 6], 2.0f * second_up[3 * 5 + 2]);
    EXPECT_TRUE(merged.checkpoint->at(linear + ".weight").dtype == DType::u32);

    // A calibrated file may come with a product of its own: an adapter adds to it.
    const auto again = apply_adapters(merged, {{two, 1.0}});
    EXPECT_EQ(
        to_float(again.checkpoint->at(linear + kLoraDown, {10, kDim}).slice(3 * kDim, 7 * kDim)),
        to_float(down));
    EXPECT_EQ(to_float(again.checkpoint->at(linear + kLoraUp, {kDim, 10}))[10 * 5 + 3 + 6],
              up_values[7 * 5 + 6]);

    tensors.push_back({kQuery + ".diff", {kDim, kDim}, {}});
    const auto with_difference = file("three.safetensors", tensors);
    expect_error(ErrorCode::unsupported, {kQuery + ".diff", "quantised"}, [&] {
        apply_adapters(quantised, {{with_difference, 1.0}});
    });
}

TEST_F(MergedLora, WhatIsLeftOutIsOneWarning) {
    const std::string image = "diffusion_model.blocks.0.cross_attn.k_img";
    const auto lora =
        file("lora.safetensors",
             query_pair(pair(image + ".lora_down.weight", image + ".lora_up.weight")));
    std::vector<std::string> lines;
    apply_adapters(base_, {{lora, 1.0}}, {},
                   [&](const std::string& line) { lines.push_back(line); });
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_NE(lines.front().find("2 of its tensors are left out"), std::string::npos);
    EXPECT_NE(lines.front().find(image + ".lora_down.weight"), std::string::npos);
}

}  // namespace
}  // namespace quantsparse::format::test
