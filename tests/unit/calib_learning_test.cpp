// The pieces of block-wise reconstruction, each against a plain loop or a formula.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "calib/adamw.hpp"
#include "calib/attention.hpp"
#include "calib/band.hpp"
#include "calib/distillation.hpp"
#include "calib/fake_quant.hpp"
#include "calib/orthogonal.hpp"
#include "calib/samples.hpp"
#include "calib/smoothing.hpp"
#include "calib/tensors.hpp"
#include "format/bit_packing.hpp"
#include "format/model_file.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::calib {
namespace {

at::Tensor values(at::IntArrayRef shape, std::uint32_t seed, float amplitude = 1.0f) {
    auto tensor = at::empty(shape, at::kFloat);
    const auto numbers =
        format::test::test_values(static_cast<std::size_t>(tensor.numel()), seed, amplitude);
    std::copy(numbers.begin(), numbers.end(), tensor.data_ptr<float>());
    return tensor;
}

double largest(const at::Tensor& x) {
    return x.abs().max().item<double>();
}

/// softmax(q k^T / sqrt(d)) [heads, Lq, Lk] in double, by loops.
std::vector<double> naive_map(const at::Tensor& q, const at::Tensor& k) {
    const auto heads = q.size(1), d = q.size(2), rows = q.size(0), keys = k.size(0);
    const auto at = [&](const at::Tensor& x, std::int64_t t, std::int64_t h, std::int64_t c) {
        return static_cast<double>(x.data_ptr<float>()[(t * heads + h) * d + c]);
    };
    std::vector<double> map;
    for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t i = 0; i < rows; ++i) {
            std::vector<double> row;
            double sum = 0;
            for (std::int64_t j = 0; j < keys; ++j) {
                double score = 0;
                for (std::int64_t c = 0; c < d; ++c) {
                    score += at(q, i, h, c) * at(k, j, h, c);
                }
                row.push_back(std::exp(score / std::sqrt(static_cast<double>(d))));
                sum += row.back();
            }
            for (const double value : row) {
                map.push_back(value / sum);
            }
        }
    }
    return map;
}

TEST(Cayley, StaysOrthogonalHoweverFarItIsLearned) {
    const std::vector<float> signs(24, 1.0f);
    const auto start = signed_hadamard(signs, 8);
    for (const float size : {0.0f, 0.3f, 20.0f}) {
        const auto rotation =
            cayley(start.to(at::kDouble), values({3, 8, 8}, 4, size).to(at::kDouble));
        const auto product = at::matmul(rotation, rotation.transpose(1, 2));
        EXPECT_LT(largest(product - at::eye(8, at::kDouble)), 2e-7) << size;  // the start is fp32
        EXPECT_EQ(largest(rotation - start) < 1e-6, size == 0.0f);
    }
}

TEST(Cayley, StartsAsTheRotationOfTheFastPreset) {
    const int k = 96;
    auto signs = std::vector<float>(k, 1.0f);
    for (std::size_t i = 0; i < signs.size(); i += 3) {
        signs[i] = -1.0f;
    }
    const auto rows = values({5, k}, 7);
    const auto expected = transform_rows(values_of(rows), k, std::vector<float>(k, 1.0f), signs);
    const auto rotated = rotate_rows(rows, signed_hadamard(signs, format::hadamard_block(k)));
    for (std::size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(rotated.data_ptr<float>()[i], expected[i], 1e-5);
    }
    EXPECT_EQ(rotation_block(1536, 64), 64);
    EXPECT_EQ(rotation_block(96, 64), 32);
    EXPECT_EQ(rotation_block(35, 64), 1);
}

TEST(FakeQuant, GradientsAreThoseOfTheFormulas) {
    // Q(v) = s clip(round(v / s), -8, 7): dQ/dv = 1 inside, 0 outside; dQ/ds = round(z) - z inside,
    // the bound outside.
    const float s = 0.25f;
    const std::vector<float> inputs = {0.0f, 0.3f, -0.37f, 0.625f, 1.74f, 1.9f, -2.1f, -0.874f};
    for (const float input : inputs) {
        auto v = at::full({1}, input).requires_grad_(true);
        auto scale = at::full({1}, s).requires_grad_(true);
        const auto out = straight_through_quantize(v, scale, -8, 7);
        out.backward();
        const double z = static_cast<double>(input) / s;
        const double rounded = std::nearbyint(z);  // half to even
        const bool inside = z >= -8 && z <= 7;
        const double code = std::clamp(rounded, -8.0, 7.0);
        EXPECT_NEAR(out.item<double>(), code * s, 1e-6) << input;
        EXPECT_EQ(v.grad().item<double>(), inside ? 1.0 : 0.0) << input;
        EXPECT_NEAR(scale.grad().item<double>(), inside ? rounded - z : code, 1e-5) << input;
    }
}

TEST(FakeQuant, AgreesWithTheStoredFormat) {
    const auto weight = values({7, 33}, 3);
    std::vector<float> gamma;
    for (int i = 0; i < 7; ++i) {
        gamma.push_back(0.6f + 0.05f * static_cast<float>(i));
    }
    auto gamma_tensor = at::empty({7}, at::kFloat);
    std::copy(gamma.begin(), gamma.end(), gamma_tensor.data_ptr<float>());
    for (const int bits : {4, 6, 8}) {
        const auto ours = learnable_weight_quantize(weight, gamma_tensor, bits);
        const auto stored = format::quantize_weight(values_of(weight), 7, 33, bits, gamma);
        const auto rows = learnable_row_quantize(weight, {}, bits);
        const auto stored_rows = format::quantize_rows(values_of(weight), 7, 33, bits);
        for (std::size_t i = 0; i < stored.codes.size(); ++i) {
            ASSERT_NEAR(ours.data_ptr<float>()[i],
                        static_cast<float>(stored.codes[i]) * stored.scale[i / 33], 1e-5);
            ASSERT_NEAR(rows.data_ptr<float>()[i],
                        static_cast<float>(stored_rows.codes[i]) * stored_rows.scale[i / 33], 1e-5);
        }
    }
    EXPECT_EQ(largest(learnable_row_quantize(at::zeros({2, 5}), {}, 8)), 0.0);
}

TEST(TiledAttention, OutputAndGradientsAreThoseOfThePlainMap) {
    // More rows than a tile, with and without a mask.
    const std::int64_t tokens = 600, heads = 2, d = 6;
    for (const bool masked : {false, true}) {
        BandMask mask;
        if (masked) {
            mask.positions = at::stack({at::arange(tokens, at::kLong),
                                        (at::arange(tokens, at::kLong) * 7).remainder(tokens)});
            mask.half_width = 40;
            mask.sink = 13;
        }
        std::vector<at::Tensor> inputs, plain;
        for (std::uint32_t seed = 1; seed <= 3; ++seed) {
            inputs.push_back(values({tokens, heads, d}, seed, 2.0f).requires_grad_(true));
            plain.push_back(inputs.back().detach().clone().requires_grad_(true));
        }
        const auto weights = values({tokens, heads * d}, 9);
        const auto out = attention(inputs[0], inputs[1], inputs[2], mask);
        (out * weights).sum().backward();

        auto scores = at::einsum("ihc,jhc->hij", {plain[0], plain[1]}) / std::sqrt(6.0);
        if (masked) {
            const auto rows = mask.positions.unsqueeze(2);
            const auto columns = mask.positions.unsqueeze(1);
            const auto kept = (rows - columns).abs().le(40).logical_or(columns.lt(13));
            scores = scores.masked_fill(kept.logical_not(), -INFINITY);
        }
        const auto expected = at::einsum("hij,jhc->ihc", {at::softmax(scores, -1), plain[2]})
                                  .reshape({tokens, heads * d});
        (expected * weights).sum().backward();
        EXPECT_LT(largest(out - expected), 1e-5);
        for (std::size_t i = 0; i < 3; ++i) {
            EXPECT_LT(largest(inputs[i].grad() - plain[i].grad()), 2e-4) << i << masked;
        }
    }
}

TEST(Distillation, PooledMapIsTheMapOfWindowMeans) {
    const std::int64_t tokens = 23, heads = 2, d = 4, stride = 5;
    const auto q = values({tokens, heads, d}, 1, 3.0f);
    const auto k = values({tokens, heads, d}, 2, 3.0f);
    const auto window_means = [&](const at::Tensor& x) {
        auto means = at::zeros({5, heads, d});  // the last of 3 tokens
        for (std::int64_t t = 0; t < tokens; ++t) {
            const double size = t / stride == 4 ? 3.0 : 5.0;
            means[t / stride] += x[t] / size;
        }
        return means;
    };
    const auto expected = naive_map(window_means(q), window_means(k));
    const auto map = pooled_map(q, k, stride).contiguous();
    ASSERT_EQ(static_cast<std::size_t>(map.numel()), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(map.data_ptr<float>()[i], expected[i], 1e-5);
    }
}

TEST(Distillation, ReceivedAttentionIsTheColumnSumsOfTheFullMap) {
    const std::int64_t tokens = 700, heads = 2, d = 4;  // more rows than a tile
    const auto q = values({tokens, heads, d}, 5, 3.0f);
    const auto k = values({tokens, heads, d}, 6, 3.0f);
    const auto map = naive_map(q, k);
    std::vector<double> columns(tokens, 0.0);
    for (std::size_t i = 0; i < map.size(); ++i) {
        columns[i % static_cast<std::size_t>(tokens)] += map[i];
    }
    const auto received = received_attention(q, k);
    for (std::int64_t j = 0; j < tokens; ++j) {
        ASSERT_NEAR(received.data_ptr<double>()[j], columns[static_cast<std::size_t>(j)], 1e-4);
    }
    // The six largest, by sorting.
    std::vector<std::int64_t> order(tokens);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](auto a, auto b) {
        return columns[static_cast<std::size_t>(a)] > columns[static_cast<std::size_t>(b)];
    });
    std::set<std::int64_t> expected(order.begin(), order.begin() + 6);
    const auto salient = salient_tokens(received, 6);
    EXPECT_EQ(std::set<std::int64_t>(salient.data_ptr<std::int64_t>(),
                                     salient.data_ptr<std::int64_t>() + 6),
              expected);
    EXPECT_EQ(salient_tokens(received, 5000).size(0), tokens);
}

TEST(Distillation, LossesAreThoseOfTheFullMaps) {
    const std::int64_t tokens = 40, heads = 2, d = 4;
    const auto q = values({tokens, heads, d}, 1, 3.0f), k = values({tokens, heads, d}, 2, 3.0f);
    const auto q2 = q + values({tokens, heads, d}, 3, 0.3f);
    const auto k2 = k + values({tokens, heads, d}, 4, 0.3f);
    const auto rows = at::tensor({3, 17, 39}, at::kLong);
    const auto map = naive_map(q, k);
    const auto map2 = naive_map(q2, k2);
    double error = 0;
    for (std::int64_t h = 0; h < heads; ++h) {
        for (const std::int64_t row : {3, 17, 39}) {
            for (std::int64_t j = 0; j < tokens; ++j) {
                const auto at = static_cast<std::size_t>((h * tokens + row) * tokens + j);
                error += (map[at] - map2[at]) * (map[at] - map2[at]);
            }
        }
    }
    const auto loss = map_error(attention_rows(q2.index_select(0, rows), k2),
                                attention_rows(q.index_select(0, rows), k));
    EXPECT_NEAR(loss.item<double>(), error / (3.0 * heads), error * 1e-4);
}

TEST(Distillation, DefaultsKeepThePapersProportions) {
    EXPECT_NEAR(default_stride(17472), 128, 10);
    EXPECT_NEAR(default_salient(17472), 256, 10);
    EXPECT_EQ(default_stride(50), 1);
    EXPECT_EQ(default_salient(2), 2);
}

TEST(Band, HeadsGetTheOrderTheirAttentionLivesIn) {
    // Head 0 attends to its own frame, head 1 to its own place in all frames.
    const std::int64_t frames = 6, places = 8, tokens = frames * places, d = 16;
    auto q = at::zeros({tokens, 2, d});
    for (std::int64_t t = 0; t < tokens; ++t) {
        q[t][0][t / places] = 12.0;
        q[t][1][t % places] = 12.0;
    }
    const auto v = values({tokens, 2, d}, 8);
    const auto mask = choose_band(q, q, v, {frames, 2, 4}, 0.45);
    EXPECT_TRUE(at::equal(mask.positions[0], at::arange(tokens, at::kLong)));
    const auto* temporal = mask.positions[1].data_ptr<std::int64_t>();
    for (std::int64_t t = 0; t < tokens; ++t) {
        EXPECT_EQ(temporal[t], t % places * frames + t / places);
    }
}

TEST(AdamW, FirstStepsFollowTheFormula) {
    auto x = at::full({1}, 2.0f).requires_grad_(true);
    AdamW optimizer({{{x}, 0.1}});
    double value = 2.0, first = 0, second = 0;
    for (int step = 1; step <= 3; ++step) {
        (x * x).sum().backward();
        optimizer.step(1.0);
        const double gradient = 2 * value;
        first = 0.9 * first + 0.1 * gradient;
        second = 0.999 * second + 0.001 * gradient * gradient;
        value -= 0.1 * (first / (1 - std::pow(0.9, step))) /
                 (std::sqrt(second / (1 - std::pow(0.999, step))) + 1e-8);
        EXPECT_NEAR(x.item<double>(), value, 1e-5) << step;
    }
    EXPECT_DOUBLE_EQ(cosine_factor(0, 100), 1.0);
    EXPECT_NEAR(cosine_factor(99, 100), 1e-3, 1e-9);
}

TEST(Samples, CoverTheEndsAndBothBranches) {
    for (const auto& [count, steps, clips] :
         {std::tuple{20, 10, 5}, {8, 50, 2}, {24, 6, 6}, {5, 3, 1}, {2, 1, 1}}) {
        const auto samples = choose_samples(count, 4, steps, clips);
        ASSERT_EQ(samples.size(), static_cast<std::size_t>(count + 4));
        std::set<int> seen;
        for (int i = 0; i < count; ++i) {
            const auto& sample = samples[static_cast<std::size_t>(i)];
            EXPECT_EQ(sample.branch, i % 2);
            EXPECT_GE(sample.step, 0);
            EXPECT_LT(sample.step, steps);
            EXPECT_LT(sample.clip, clips);
            seen.insert(sample.step);
        }
        if (count >= 8) {
            for (const int step : {0, 1, steps - 2, steps - 1}) {
                EXPECT_TRUE(seen.count(step)) << count << " of " << steps << ": " << step;
            }
        }
        if (clips > 2) {
            for (std::size_t i = static_cast<std::size_t>(count); i < samples.size(); ++i) {
                for (std::size_t j = 0; j < static_cast<std::size_t>(count); ++j) {
                    EXPECT_FALSE(samples[i] == samples[j]) << i << " " << j;
                }
            }
        }
    }
}

}  // namespace
}  // namespace quantsparse::calib
