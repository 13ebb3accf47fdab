#include "bench/clip_cost.hpp"

#include <gtest/gtest.h>

#include "format/networks/wan_dit.hpp"

namespace quantsparse::bench {
namespace {

TEST(StepCost, FindsBothPartsAgain) {
    const auto seconds = [](double n) { return 3e-4 * n + 2e-8 * n * n; };
    const StepCost cost = fit_step_cost(1024, seconds(1024), 2048, seconds(2048));
    EXPECT_NEAR(cost.linear, 3e-4, 1e-12);
    EXPECT_NEAR(cost.quadratic, 2e-8, 1e-15);
    EXPECT_NEAR(cost.at(32760), seconds(32760), 1e-6);
}

TEST(StepCost, GoesThroughTheLargerMeasurementAndNeverBelowZero) {
    for (const double small : {0.1, 0.5, 0.6, 5.0}) {  // 0.5: linear; 0.1: steeper than quadratic
        const StepCost cost = fit_step_cost(1000, small, 2000, 1.0);
        EXPECT_NEAR(cost.at(2000), 1.0, 1e-12) << small;
        EXPECT_GE(cost.linear, 0) << small;
        EXPECT_GE(cost.quadratic, 0) << small;
    }
}

// The paper's storage of Wan 14B, of which it does not say which layers are quantised.
TEST(TransformerBytes, MatchesThePaper) {
    format::WanDitConfig config;
    config.dim = 5120;
    config.ffn_dim = 13824;
    config.num_heads = 40;
    config.num_layers = 40;
    const format::Network network = format::describe_wan_dit(config);
    const double gib = 1 << 30;
    EXPECT_NEAR(static_cast<double>(transformer_bytes(network, 16)) / gib, 26.61, 0.01);
    EXPECT_NEAR(static_cast<double>(transformer_bytes(network, 4)) / gib, 7.00, 0.035);
    EXPECT_GT(transformer_bytes(network, 6), transformer_bytes(network, 4));
}

}  // namespace
}  // namespace quantsparse::bench
