#include <fmt/format.h>

#include <cmath>

#include "calib/tensors.hpp"
#include "calib/umt5_encoder.hpp"
#include "format/networks/umt5.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight) {
    return x * at::rsqrt(x.square().mean(-1, true) + 1e-6) * weight;
}

/// Bidirectional buckets of key-minus-query offsets: half for positive ones, exact while small,
/// then logarithmic up to max_distance; the logarithm in fp32 as the reference takes it (umt5 fact
/// 24).
int bucket_of(int offset, int buckets, int max_distance) {
    const int half = buckets / 2;
    const int base = offset > 0 ? half : 0;
    const int distance = std::abs(offset);
    const int exact = half / 2;
    if (distance < exact) {
        return base + distance;
    }
    const float ratio = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                        static_cast<float>(std::log(static_cast<double>(max_distance) / exact));
    const int large = exact + static_cast<int>(ratio * static_cast<float>(half - exact));
    return base + std::min(large, half - 1);
}

/// [tokens, dim]: only the rows that occur are widened; the table of UMT5-XXL has 256384.
at::Tensor embed(const format::Checkpoint& checkpoint, const format::Umt5Config& config,
                 const std::vector<int>& ids) {
    const auto& table = checkpoint.at("token_embedding.weight", {config.vocab_size, config.dim});
    auto rows = at::empty({static_cast<std::int64_t>(ids.size()), config.dim}, at::kFloat);
    for (std::size_t i = 0; i < ids.size(); ++i) {
        if (ids[i] < 0 || ids[i] >= config.vocab_size) {
            throw Error(ErrorCode::bad_file,
                        fmt::format("the tokenizer gives id {} but the text encoder has {} words; "
                                    "they are of different models",
                                    ids[i], config.vocab_size));
        }
        format::to_float(table.slice(std::int64_t{ids[i]} * config.dim, config.dim),
                         {rows.data_ptr<float>() + i * static_cast<std::size_t>(config.dim),
                          static_cast<std::size_t>(config.dim)});
    }
    return rows;
}

}  // namespace

at::Tensor encode_umt5(const format::Component& encoder, const std::vector<int>& ids,
                       const std::function<void()>& after_layer) {
    const auto& checkpoint = *encoder.checkpoint;
    const auto& config = encoder.network.config_as<format::Umt5Config>();
    const c10::InferenceMode no_gradients;
    const auto count = static_cast<std::int64_t>(ids.size());
    auto buckets = at::empty({count, count}, at::kLong);
    for (std::int64_t query = 0; query < count; ++query) {
        for (std::int64_t key = 0; key < count; ++key) {
            buckets.data_ptr<std::int64_t>()[query * count + key] =
                bucket_of(static_cast<int>(key - query), config.num_buckets, config.max_distance);
        }
    }
    auto x = embed(checkpoint, config, ids);
    for (int layer = 0; layer < config.num_layers; ++layer) {
        const auto weight = [&](const char* name) {
            return load_tensor(checkpoint, fmt::format("blocks.{}.{}.weight", layer, name));
        };
        const auto heads = [&](const at::Tensor& t) {
            return t.view({count, config.num_heads, -1}).transpose(0, 1);
        };
        auto u = rms_norm(x, weight("norm1"));
        // No 1/sqrt(d), every layer its own bias (umt5 facts 24, 25). Valid tokens only, so no
        // mask.
        const auto bias = weight("pos_embedding.embedding")
                              .index_select(0, buckets.view(-1))
                              .view({count, count, config.num_heads})
                              .permute({2, 0, 1});
        const auto scores = at::matmul(heads(at::linear(u, weight("attn.q"))),
                                       heads(at::linear(u, weight("attn.k"))).transpose(1, 2)) +
                            bias;
        const auto mixed =
            at::matmul(at::softmax(scores, -1), heads(at::linear(u, weight("attn.v"))))
                .transpose(0, 1)
                .reshape({count, config.dim_attn});
        x = x + at::linear(mixed, weight("attn.o"));
        u = rms_norm(x, weight("norm2"));
        const auto gated = at::linear(u, weight("ffn.fc1")) *
                           at::gelu(at::linear(u, weight("ffn.gate.0")), "tanh");
        x = x + at::linear(gated, weight("ffn.fc2"));
        if (after_layer) {
            after_layer();
        }
    }
    return rms_norm(x, load_tensor(checkpoint, "norm.weight"));
}

}  // namespace quantsparse::calib
