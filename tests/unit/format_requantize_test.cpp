#include "format/requantize.hpp"

#include <gtest/gtest.h>

#include "format/bit_packing.hpp"
#include "format/check_tensors.hpp"
#include "format/model_file.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::format::test {
namespace {

class Requantize : public testing::Test {
  protected:
    /// Widths that are no multiples of anything.
    Component component() {
        WanDitConfig config;
        config.dim = 60;
        config.num_heads = 2;
        config.ffn_dim = 83;
        config.num_layers = 2;
        config.text_dim = 32;
        config.text_len = 16;
        config.freq_dim = 32;
        const Network network = describe_wan_dit(config);
        write_network(folder_ / "model.safetensors", network.tensors);
        return {network, std::make_shared<Checkpoint>(Checkpoint::open(
                             folder_ / "model.safetensors", network_kind("wan-dit")))};
    }
    std::vector<std::uint32_t> words(const TensorView& view) {
        std::vector<std::uint32_t> result(view.byte_count() / 4);
        read_bytes(view, std::as_writable_bytes(std::span(result)));
        return result;
    }

    TemporaryFolder folder_;
    std::shared_ptr<RequantizationError> error_ = std::make_shared<RequantizationError>();
};

TEST_F(Requantize, IsWhatQuantizeWeightMakesOfEachLinear) {
    const Component source = component();
    const Component packed = requantize(source, 8, error_);
    Quantization quantization;
    quantization.bits = {8, 8};
    EXPECT_NO_THROW(check_tensors(*packed.checkpoint, "transformer", packed.network, quantization));
    double difference = 0, norm = 0;
    for (const auto& block : source.network.blocks) {
        for (const auto& linear : linears_of(block)) {
            const auto weight = to_float(source.checkpoint->at(linear.name + ".weight"));
            const int n = linear.out_features, k = linear.in_features;
            const auto expected = quantize_weight(weight, n, k, 8);
            const auto& codes = packed.checkpoint->at(linear.name + ".codes");
            EXPECT_EQ(codes.shape, codes_shape(n, k, 8));
            EXPECT_EQ(words(codes), pack_weight_codes(expected.codes, n, k, 8)) << linear.name;
            EXPECT_EQ(to_float(packed.checkpoint->at(linear.name + ".scale")), expected.scale);
            EXPECT_EQ(packed.checkpoint->find(linear.name + ".weight"), nullptr);
            for (std::size_t i = 0; i < weight.size(); ++i) {
                const double code = expected.codes[i];
                const double scale =
                    static_cast<double>(expected.scale[i / static_cast<std::size_t>(k)]);
                const double value = static_cast<double>(weight[i]);
                difference += (value - code * scale) * (value - code * scale);
                norm += value * value;
            }
        }
    }
    EXPECT_NEAR(error_->relative(), std::sqrt(difference / norm), 1e-6);
}

TEST_F(Requantize, ScalesMayBeReadFirstAndPartsAlone) {
    const Component source = component();
    const std::string name = "blocks.1.ffn.2";
    const auto of_codes_first = requantize(source, 8, error_);
    const auto all = words(of_codes_first.checkpoint->at(name + ".codes"));
    const double error = error_->relative();
    const auto of_scales_first = requantize(source, 8, error_);
    EXPECT_EQ(to_float(of_scales_first.checkpoint->at(name + ".scale")),
              to_float(of_codes_first.checkpoint->at(name + ".scale")));
    const auto part = words(of_scales_first.checkpoint->at(name + ".codes").slice(7, 20));
    EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 7));
    words(of_codes_first.checkpoint->at(name + ".codes"));  // counted once
    EXPECT_DOUBLE_EQ(error_->relative(), error);
}

TEST_F(Requantize, RefusesOtherBitsAndQuantisedModels) {
    const Component source = component();
    expect_error(ErrorCode::invalid_argument, {"4 bits", "8"},
                 [&] { requantize(source, 4, error_); });
    ModelBundle model;
    model.components["transformer"] = source;
    requantize(model, {"transformer"}, 8, error_);
    EXPECT_EQ(model.quantization.name(), "w8a8");
    EXPECT_LT(linear_bytes(model.at("transformer")).stored,
              linear_bytes(model.at("transformer")).bf16);
    expect_error(ErrorCode::invalid_argument, {"w8a8"},
                 [&] { requantize(model, {"transformer"}, 8, error_); });
}

}  // namespace
}  // namespace quantsparse::format::test
