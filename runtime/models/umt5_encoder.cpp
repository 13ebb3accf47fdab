#include "models/umt5_encoder.hpp"

#include <fmt/format.h>
#include <cmath>

#include "kernels/attention.hpp"
#include "kernels/copy.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::models {

using kernels::add_head_matrix;
using kernels::add_matrix;
using kernels::Epilogue;
using kernels::HeadMatrix;
using kernels::Norm;

Umt5Encoder::Umt5Encoder(Program& program, const format::Network& network, int tokens, int valid,
                         bool half)
    : config_(network.config_as<format::Umt5Config>()),
      program_(program),
      tokens_(tokens),
      valid_(valid),
      layer_weights_(program, half),
      final_weights_(program, half) {
    if (config_.dim_attn % config_.num_heads) {
        throw Error(ErrorCode::bad_file,
                    "the text encoder's attention width is no multiple of its heads");
    }
    build();
}

int Umt5Encoder::relative_bucket(int relative_position, int num_buckets, int max_distance) {
    const int half = num_buckets / 2;
    const int side = relative_position > 0 ? half : 0;
    const int distance = std::abs(relative_position);
    const int exact = half / 2;
    if (distance < exact) return side + distance;
    const float ratio = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                        static_cast<float>(std::log(static_cast<double>(max_distance) / exact)) *
                        static_cast<float>(half - exact);
    return side + std::min(exact + static_cast<int>(ratio), half - 1);
}

void Umt5Encoder::build() {
    const auto& c = config_;
    x_ = add_matrix(program_, "hidden", tokens_, c.dim, program::Lifetime::persistent);

    layer_phase_ = program_.begin_phase("layer");
    build_attention();
    build_feed_forward();

    final_phase_ = program_.begin_phase("final");
    normed_ = add_matrix(program_, "final_norm", tokens_, c.dim, program::Lifetime::persistent);
    Norm norm;
    norm.kind = Norm::Kind::rms;
    norm.weight = final_weights_.vector("norm.weight", c.dim);
    normalize_rows(program_, "final_norm", x_, normed_, norm);
}

void Umt5Encoder::build_attention() {
    const auto& c = config_;
    const int head_dim = c.dim_attn / c.num_heads;
    const std::string b = "blocks.{}.";
    Norm norm;
    norm.kind = Norm::Kind::rms;
    const Matrix u = add_matrix(program_, "norm1", tokens_, c.dim);
    norm.weight = layer_weights_.vector(b + "norm1.weight", c.dim);
    normalize_rows(program_, "norm1", x_, u, norm);
    keep(program_, "norm1", u);
    const auto project = [&](const std::string& name) {
        const auto weight = layer_weights_.linear(b + "attn." + name, c.dim_attn, c.dim, false);
        const Matrix rows = add_matrix(program_, name, tokens_, c.dim_attn);
        matmul(program_, "attn." + name, u, weight, rows);
        const HeadMatrix heads =
            add_head_matrix(program_, name + "_heads", c.num_heads, tokens_, head_dim);
        split_heads(program_, "attn.split_" + name, rows, heads);
        return heads;
    };
    const HeadMatrix q = project("q"), k = project("k"), v = project("v");
    const Matrix attended = add_matrix(program_, "attended", tokens_, c.dim_attn);
    kernels::AttentionOptions attention;  // no 1/sqrt(d): umt5 fact 25
    attention.keys = valid_;
    attention.bias_span = tokens_;
    // [heads, 2 * tokens - 1] by key - query, from the layer's own table [buckets, heads].
    attention.bias = layer_weights_.computed(
        "position_bias", c.num_heads * (2 * tokens_ - 1),
        [c, b, tokens = tokens_](const WeightSource& source) {
            const auto table = load_values(source, b + "pos_embedding.embedding.weight",
                                           {c.num_buckets, c.num_heads});
            std::vector<float> bias;
            for (int head = 0; head < c.num_heads; ++head) {
                for (int distance = 1 - tokens; distance < tokens; ++distance) {
                    const int bucket = relative_bucket(distance, c.num_buckets, c.max_distance);
                    bias.push_back(table[static_cast<std::size_t>(bucket * c.num_heads + head)]);
                }
            }
            return bias;
        });
    kernels::attention(program_, "attn.attention", q, k, v, attended, attention);
    const auto weight = layer_weights_.linear(b + "attn.o", c.dim, c.dim_attn, false);
    if (program_.keep_intermediates()) {
        const Matrix out = add_matrix(program_, "attn_out", tokens_, c.dim);
        matmul(program_, "attn.o", attended, weight, out);
        keep(program_, "attn", out);
    }
    Epilogue add;
    add.residual = &x_;
    matmul(program_, "attn.o", attended, weight, x_, add);
}

void Umt5Encoder::build_feed_forward() {
    const auto& c = config_;
    const std::string b = "blocks.{}.";
    Norm norm;
    norm.kind = Norm::Kind::rms;
    const Matrix u = add_matrix(program_, "norm2", tokens_, c.dim);
    norm.weight = layer_weights_.vector(b + "norm2.weight", c.dim);
    normalize_rows(program_, "norm2", x_, u, norm);
    const auto gate_weight = layer_weights_.linear(b + "ffn.gate.0", c.dim_ffn, c.dim, false);
    const auto fc1 = layer_weights_.linear(b + "ffn.fc1", c.dim_ffn, c.dim, false);
    const auto fc2 = layer_weights_.linear(b + "ffn.fc2", c.dim, c.dim_ffn, false);
    const Matrix gate = add_matrix(program_, "ffn_gate", tokens_, c.dim_ffn);
    const Matrix hidden = add_matrix(program_, "ffn_hidden", tokens_, c.dim_ffn);
    Epilogue gelu;
    gelu.activation = kernels::Activation::gelu_tanh;
    matmul(program_, "ffn.gate", u, gate_weight, gate, gelu);
    Epilogue multiply;
    multiply.factor = &gate;
    matmul(program_, "ffn.fc1", u, fc1, hidden, multiply);
    if (program_.keep_intermediates()) {
        const Matrix out = add_matrix(program_, "ffn_out", tokens_, c.dim);
        matmul(program_, "ffn.fc2", hidden, fc2, out);
        keep(program_, "ffn", out);
    }
    Epilogue add;
    add.residual = &x_;
    matmul(program_, "ffn.fc2", hidden, fc2, x_, add);
}

TextStates Umt5Encoder::encode(program::Executor& executor, const format::Checkpoint& checkpoint,
                               const std::vector<int>& ids, const Between& between,
                               const std::function<void(int)>& after_layer) const {
    const std::size_t dim = static_cast<std::size_t>(config_.dim);
    const std::size_t stride = static_cast<std::size_t>(x_.stride);
    const format::TensorView& table =
        checkpoint.at("token_embedding.weight", {config_.vocab_size, config_.dim});
    std::vector<float> rows(static_cast<std::size_t>(tokens_) * stride, 0.0f);
    for (std::size_t t = 0; t < static_cast<std::size_t>(tokens_); ++t) {
        const int id = ids.at(t);
        if (id < 0 || id >= config_.vocab_size) {
            throw Error(
                ErrorCode::bad_file,
                fmt::format("token id {} is outside the text encoder's vocabulary of {}: the "
                            "tokenizer does not belong to this model",
                            id, config_.vocab_size));
        }
        // One row of the table, widened on its own: the table may be gigabytes.
        format::to_float(table.slice(static_cast<std::int64_t>(id) * config_.dim, config_.dim),
                         std::span<float>(rows).subspan(t * stride, dim));
    }
    executor.write_values(x_.tensor, std::span<const float>(rows));
    for (int layer = 0; layer < config_.num_layers; ++layer) {
        layer_weights_.upload(executor, {&checkpoint, layer});
        const auto within = [&](int done, int total) {
            return !between || between(layer * total + done, config_.num_layers * total);
        };
        if (!executor.run(layer_phase_, within)) return {};
        if (after_layer) after_layer(layer);
    }
    final_weights_.upload(executor, {&checkpoint, 0});
    executor.run(final_phase_);
    const auto padded =
        executor.read_values<float>(normed_.tensor, static_cast<std::size_t>(tokens_) * stride);
    std::vector<float> hidden;
    hidden.reserve(static_cast<std::size_t>(tokens_) * dim);
    for (std::size_t t = 0; t < static_cast<std::size_t>(tokens_); ++t) {
        hidden.insert(hidden.end(), padded.begin() + static_cast<std::ptrdiff_t>(t * stride),
                      padded.begin() + static_cast<std::ptrdiff_t>(t * stride + dim));
    }
    return {std::move(hidden), {}};
}

}  // namespace quantsparse::models
