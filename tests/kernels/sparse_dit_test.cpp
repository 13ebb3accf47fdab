// The transformer of the bundled model through dense, refresh and sparse steps. On the inputs of
// its refresh a sparse step must give what dense attention gives, since nothing but the mask has
// changed: that ties together the order of tokens, head types, block lists, state and correction.
#include <fmt/format.h>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "format/safetensors.hpp"
#include "pipeline/denoise.hpp"
#include "quantsparse/error.hpp"
#include "support.hpp"

namespace quantsparse::tests {
namespace {

class SparseDitTest : public DeviceTest {
  protected:
    static constexpr models::LatentShape kShape{0, 7, 8, 12};  // channels: the model's

    static const format::ModelBundle& bundle() {
        static const format::ModelBundle model =
            format::open_model(QUANTSPARSE_TEST_ROOT "/samples/models/shapes-tiny");
        return model;
    }
    static const format::Component& transformer() { return bundle().at("transformer"); }
    models::LatentShape shape() const {
        models::LatentShape s = kShape;
        s.channels = transformer().network.geometry.in_channels;
        return s;
    }
    static AttentionParameters sparse(SsarMode mode, ResidualStorage storage) {
        AttentionParameters p;
        p.kind = AttentionKind::sparse;
        p.density = 0.3;
        p.block_size = 32;
        p.ssar = mode;
        p.residual = storage;
        p.refresh_interval = 2;
        return p;
    }

    void SetUp() override {
        DeviceTest::SetUp();
        for (const std::size_t count : {shape().count(), shape().count()}) {
            latents_.push_back(random(count));
            for (float& x : latents_.back()) x *= 1.7f;
        }
        context_ = random(6, transformer().network.geometry.text_width);
        dense_ = run(nullptr, {0, 1});
    }

    /// Velocities of steps whose latents are named by `which`; the timestep is the latent's.
    std::vector<std::vector<float>> run(const attention::StepSchedule* schedule,
                                        const std::vector<int>& which) {
        pipeline::Denoiser denoiser(
            device().internal(), transformer(),
            pipeline::denoising_options(transformer(), {}, shape(), 1, false, schedule), {},
            schedule);
        denoiser.write("context", context_);
        denoiser.set_prompt(0);
        std::vector<std::vector<float>> velocities;
        for (std::size_t i = 0; i < which.size(); ++i) {
            denoiser.begin_step(static_cast<int>(i));
            const auto& latent = latents_[static_cast<std::size_t>(which[i])];
            velocities.push_back(denoiser.predict(0, latent, which[i] ? 600 : 800));
        }
        return velocities;
    }

    static double distance(const std::vector<float>& a, const std::vector<float>& b) {
        double difference = 0, size = 0;
        for (std::size_t i = 0; i < a.size(); ++i) {
            difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
            size += std::pow(static_cast<double>(b[i]), 2);
        }
        return std::sqrt(difference / size);
    }

    std::vector<std::vector<float>> latents_;
    std::vector<float> context_;
    std::vector<std::vector<float>> dense_;  ///< of either latent
};

TEST_F(SparseDitTest, ARefreshIsADenseStepAndASparseOneReproducesItOnTheSameInput) {
    struct Row {
        SsarMode mode;
        ResidualStorage storage;
        double tolerance;
    };
    for (const Row& row : {Row{SsarMode::first, ResidualStorage::half, 2e-3},
                           {SsarMode::first, ResidualStorage::int8, 1e-2},
                           {SsarMode::svd, ResidualStorage::half, 2e-3}}) {
        const std::string what = fmt::format("mode {}, storage {}", static_cast<int>(row.mode),
                                             static_cast<int>(row.storage));
        const attention::StepSchedule schedule(sparse(row.mode, row.storage),
                                               std::vector<float>(4, 0.5f));
        const auto v = run(&schedule, {0, 0, 0, 0});  // no change: no difference to extrapolate
        // One pass over the keys, in another order than the dense kernel's.
        EXPECT_LT(distance(v[0], dense_[0]), 1e-5) << what;
        EXPECT_LT(distance(v[1], dense_[0]), row.tolerance) << what;
        EXPECT_LT(distance(v[2], dense_[0]), 1e-5) << what;
        EXPECT_LT(distance(v[3], dense_[0]), row.tolerance) << what;
    }
}

TEST_F(SparseDitTest, WithoutACorrectionTheMaskIsSeen) {
    // Guards the test above: its agreement is the correction's work.
    const attention::StepSchedule schedule(sparse(SsarMode::none, ResidualStorage::half),
                                           std::vector<float>(2, 0.5f));
    const auto v = run(&schedule, {0, 0});
    EXPECT_EQ(v[0], dense_[0]);
    EXPECT_GT(distance(v[1], dense_[0]), 2e-2);
}

TEST_F(SparseDitTest, TheSecondOrderExtrapolatesFromTheLastTwo) {
    // References of two inputs: D0 and D1 differ, so second order leaves D0 alone only with gain 0.
    auto parameters = sparse(SsarMode::second, ResidualStorage::half);
    parameters.ssar_gain = SsarGain::one;
    const attention::StepSchedule second(parameters, std::vector<float>(4, 0.5f));
    parameters.ssar_gain = SsarGain::sigma;  // sigma stands still from step 2 to step 3: gain 0
    const std::vector<float> sigmas = {0.9f, 0.8f, 0.7f, 0.7f};
    const attention::StepSchedule still(parameters, sigmas);
    EXPECT_LT(distance(run(&still, {0, 0, 1, 1})[3], dense_[1]), 2e-3);
    EXPECT_GT(distance(run(&second, {0, 0, 1, 1})[3], dense_[1]), 4e-3);
}

TEST_F(SparseDitTest, StaticSparsityIsDenseWhereEverythingIsListed) {
    auto parameters = sparse(SsarMode::off, ResidualStorage::half);
    parameters.dense_steps = 0;
    parameters.density = 1;
    const attention::StepSchedule all(parameters, std::vector<float>(2, 0.5f));
    EXPECT_LT(distance(run(&all, {0})[0], dense_[0]), 1e-6);
    parameters.density = 0.3;
    const attention::StepSchedule some(parameters, std::vector<float>(2, 0.5f));
    EXPECT_GT(distance(run(&some, {0})[0], dense_[0]), 2e-2);
}

TEST_F(SparseDitTest, TheBranchWithThePromptDecidesTheTypesOfBothBranches) {
    struct Run {
        std::vector<AttentionLayer> layers;
        std::uint64_t profiling = 0;  ///< dispatches
    };
    const attention::StepSchedule schedule(sparse(SsarMode::first, ResidualStorage::half),
                                           std::vector<float>(4, 0.5f));
    const auto other_context = random(6, transformer().network.geometry.text_width);
    const auto run_branches = [&](int branches) {
        Run result;
        pipeline::StageOptions options;
        options.profile = [&](const std::vector<program::OperationProfile>& operations) {
            for (const auto& operation : operations) {
                if (operation.name.find("self_attn.profile") != std::string::npos) {
                    result.profiling += operation.calls;
                }
            }
        };
        pipeline::Denoiser denoiser(
            device().internal(), transformer(),
            pipeline::denoising_options(transformer(), {}, shape(), branches, false, &schedule),
            options, &schedule);
        for (int branch = 0; branch < branches; ++branch) {
            denoiser.write("context", branch == 0 ? context_ : other_context);
            denoiser.set_prompt(branch);
        }
        for (int step = 0; step < 4; ++step) {
            denoiser.begin_step(step);
            for (int branch = 0; branch < branches; ++branch) {
                denoiser.predict(branch, latents_[step < 2 ? 0 : 1], step < 2 ? 800 : 600);
            }
        }
        result.layers = denoiser.attention_layers();
        return result;
    };
    const Run one = run_branches(1), two = run_branches(2);
    EXPECT_GT(one.profiling, 0u);
    EXPECT_EQ(two.profiling, one.profiling);
    ASSERT_EQ(two.layers.size(), 2 * one.layers.size());
    for (const AttentionLayer& layer : two.layers) {
        const auto alone = std::find_if(one.layers.begin(), one.layers.end(),
                                        [&](const auto& l) { return l.layer == layer.layer; });
        EXPECT_EQ(layer.head_types, alone->head_types) << layer.layer << ", " << layer.branch;
        EXPECT_EQ(layer.flips, alone->flips) << layer.layer << ", " << layer.branch;
    }
}

TEST_F(SparseDitTest, BlocksChosenAtARefreshServeUntilTheNext) {
    for (const double top_p : {0.0, 0.6}) {
        auto parameters = sparse(SsarMode::first, ResidualStorage::half);
        parameters.mask = MaskMode::topk;
        parameters.block_order = top_p > 0 ? BlockOrder::tiles : BlockOrder::frames;
        parameters.top_p = top_p;
        const attention::StepSchedule schedule(parameters, std::vector<float>(4, 0.5f));
        const auto v = run(&schedule, {0, 0, 1, 1});
        for (const std::size_t i : {0u, 1u, 2u, 3u}) {
            EXPECT_LT(distance(v[i], dense_[i / 2]), i % 2 ? 2e-3 : 1e-5) << i << ", " << top_p;
        }
        parameters.ssar = SsarMode::none;
        const attention::StepSchedule without(parameters, std::vector<float>(2, 0.5f));
        EXPECT_GT(distance(run(&without, {0, 0})[1], dense_[0]), 1e-2) << "the correction's work";
    }
}

TEST_F(SparseDitTest, ChosenBlocksWithoutCorrectionAreDenseWhereAllAre) {
    auto parameters = sparse(SsarMode::off, ResidualStorage::half);
    parameters.dense_steps = 0;
    parameters.mask = MaskMode::topk;
    parameters.density = 1;
    const attention::StepSchedule all(parameters, std::vector<float>(2, 0.5f));
    EXPECT_LT(distance(run(&all, {0})[0], dense_[0]), 1e-6);
    parameters.density = 0.2;
    parameters.top_p = 1;
    parameters.block_order = BlockOrder::tiles;
    const attention::StepSchedule by_share(parameters, std::vector<float>(2, 0.5f));
    EXPECT_LT(distance(run(&by_share, {0})[0], dense_[0]), 1e-5) << "keys in another order";
    parameters.top_p = 0;
    const attention::StepSchedule some(parameters, std::vector<float>(2, 0.5f));
    EXPECT_GT(distance(run(&some, {0})[0], dense_[0]), 1e-2);
}

TEST_F(SparseDitTest, ATailOfMeansTakesPartAndTheCorrectionAddsTheRest) {
    auto parameters = sparse(SsarMode::off, ResidualStorage::half);
    parameters.dense_steps = 0;
    parameters.mask = MaskMode::topk;
    parameters.tail = BlockTail::pooled;
    const auto one_step = [&] {
        const attention::StepSchedule schedule(parameters, std::vector<float>(2, 0.5f));
        return run(&schedule, {0})[0];
    };
    parameters.density = 1;
    EXPECT_LT(distance(one_step(), dense_[0]), 1e-6);
    parameters.density = 0.2;
    const auto with = one_step();
    parameters.tail = BlockTail::none;
    EXPECT_GT(distance(one_step(), with), 1e-2) << "the tail is the difference";
    parameters.tail = BlockTail::pooled;
    parameters.ssar = SsarMode::first;
    for (const BlockOrder order : {BlockOrder::frames, BlockOrder::tiles}) {
        parameters.block_order = order;
        const attention::StepSchedule schedule(parameters, std::vector<float>(4, 0.5f));
        const auto v = run(&schedule, {0, 0, 1, 1});
        for (const std::size_t i : {0u, 1u, 2u, 3u}) {
            EXPECT_LT(distance(v[i], dense_[i / 2]), i % 2 ? 2e-3 : 1e-5) << i;
        }
    }
}

TEST_F(SparseDitTest, JengaIsDenseWhereItDropsNothing) {
    auto parameters = sparse(SsarMode::off, ResidualStorage::half);
    parameters.dense_steps = 0;
    parameters.mask = MaskMode::jenga;
    const auto run_with = [&](double density, double top_p) {
        parameters.density = density;
        parameters.top_p = top_p;
        const attention::StepSchedule schedule(parameters, std::vector<float>(2, 0.5f));
        return distance(run(&schedule, {0})[0], dense_[0]);
    };
    EXPECT_LT(run_with(1, 0), 1e-5) << "keys in another order";
    EXPECT_LT(run_with(0.2, 1), 1e-5);
}

class MaskFileTest : public SparseDitTest {
  protected:
    static constexpr int kTokens = 7 * 4 * 6, kBlocks = 6, kHeads = 3, kLayers = 6;  // blocks of 32
    using Masks = std::map<std::string, std::vector<std::uint8_t>>;

    /// A mask for each layer from `first` on: of head h all blocks but, in row i, the one h behind.
    static Masks masks(int first) {
        Masks all;
        for (int layer = first; layer < kLayers; ++layer) {
            auto& values = all["blocks." + std::to_string(layer) + ".self_attn.mask"];
            for (int h = 0; h < kHeads; ++h) {
                for (int i = 0; i < kBlocks; ++i) {
                    for (int j = 0; j < kBlocks; ++j) values.push_back(j != (i + h) % kBlocks);
                }
            }
        }
        return all;
    }
    void write(const Masks& masks, const std::string& tokens = std::to_string(kTokens)) {
        format::SafetensorsWriter writer(file_);
        writer.set_metadata("block", "32");
        writer.set_metadata("tokens", tokens);
        for (const auto& [name, values] : masks) {
            const auto heads = static_cast<std::int64_t>(values.size()) / (kBlocks * kBlocks);
            writer.declare(name, format::DType::u8, {heads, kBlocks, kBlocks});
        }
        for (const auto& [name, values] : masks) {
            writer.write(name, std::as_bytes(std::span(values)));
        }
        writer.finish();
    }
    AttentionParameters parameters() const {
        AttentionParameters p;
        p.kind = AttentionKind::sparse;
        p.ssar = SsarMode::off;
        p.dense_steps = 0;
        p.mask_file = file_;
        return p;
    }
    std::vector<float> one_step(const AttentionParameters& p) {
        const attention::StepSchedule schedule(p, std::vector<float>(2, 0.5f));
        return run(&schedule, {0})[0];
    }
    std::string refusal(const AttentionParameters& p) {
        try {
            one_step(p);
        } catch (const Error& error) {
            EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
            return error.what();
        }
        return "none";
    }
    void TearDown() override {
        std::filesystem::remove(file_);
        SparseDitTest::TearDown();
    }

    const std::filesystem::path file_ =
        std::filesystem::temp_directory_path() /
        fmt::format("quantsparse-mask-{}.safetensors", static_cast<const void*>(this));
};

TEST_F(MaskFileTest, TheListsOfEachHeadAreThoseOfTheFile) {
    Masks all;
    for (const auto& [name, values] : masks(1)) all[name].assign(kBlocks * kBlocks, 1);
    write(all);
    EXPECT_LT(distance(one_step(parameters()), dense_[0]), 1e-6) << "all blocks, one for all heads";
    write(masks(1));
    const attention::StepSchedule schedule(parameters(), std::vector<float>(2, 0.5f));
    pipeline::Denoiser denoiser(
        device().internal(), transformer(),
        pipeline::denoising_options(transformer(), {}, shape(), 1, false, &schedule), {},
        &schedule);
    for (const AttentionLayer& layer : denoiser.attention_layers()) {
        for (const double density : layer.densities) EXPECT_NEAR(density, 5.0 / 6, 1e-6);
    }
    EXPECT_EQ(denoiser.attention_layers().size(), 5u);
    EXPECT_GT(distance(one_step(parameters()), dense_[0]), 1e-3);
}

TEST_F(MaskFileTest, WhatDoesNotFitIsSaidInOneLine) {
    const auto has = [&](const std::string& message, const std::string& piece) {
        EXPECT_NE(message.find(piece), std::string::npos) << message;
    };
    auto p = parameters();
    EXPECT_NE(refusal(p), "none") << "there is no file";
    write(masks(1), "169");
    has(refusal(p), "169 tokens");
    write(masks(1), "many");
    has(refusal(p), "'tokens'");
    write(masks(0));
    has(refusal(p), "layer 0");
    p.dense_layers = 0;
    EXPECT_EQ(refusal(p), "none");
    p = parameters();
    p.block_size = 64;
    write(masks(1));
    has(refusal(p), "blocks of 32");
    p = parameters();
    auto changed = masks(1);
    changed.erase("blocks.3.self_attn.mask");
    write(changed);
    has(refusal(p), "lacks blocks.3.self_attn.mask");
    changed = masks(1);
    changed["blocks.7.self_attn.mask"].assign(kBlocks * kBlocks, 1);
    write(changed);
    has(refusal(p), "no masks");
    changed = masks(1);
    changed["blocks.2.self_attn.mask"].resize(2 * kBlocks * kBlocks);
    write(changed);
    has(refusal(p), "[2, 6, 6]");
    changed = masks(1);
    changed["blocks.2.self_attn.mask"][7] = 2;
    write(changed);
    has(refusal(p), "value 2");
    changed = masks(1);
    for (std::size_t j = 0; j < kBlocks; ++j) {
        changed["blocks.4.self_attn.mask"][kBlocks * kBlocks + kBlocks + j] = 0;
    }
    write(changed);
    has(refusal(p), "block 1 of head 1");
}

TEST_F(SparseDitTest, AReusedStepAddsWhatTheBlocksLastAdded) {
    AttentionParameters parameters;
    const std::vector<float> sigmas(4, 0.5f);
    const attention::StepSchedule schedule(parameters, sigmas, {false, true, true, false});
    const auto v = run(&schedule, {0, 0, 1, 1});
    EXPECT_EQ(v[0], dense_[0]);
    EXPECT_LT(distance(v[1], dense_[0]), 1e-5) << "the same latent: the sum is rounded once more";
    EXPECT_GT(distance(v[2], dense_[1]), 1e-2) << "another latent: the blocks did not see it";
    EXPECT_EQ(v[3], dense_[1]);
}

TEST_F(SparseDitTest, StepsMayBeReusedBetweenRefreshes) {
    const std::vector<float> sigmas(6, 0.5f);
    const auto parameters = sparse(SsarMode::first, ResidualStorage::half);
    const attention::StepSchedule schedule(parameters, sigmas,
                                           {false, true, false, false, true, false});
    const auto v = run(&schedule, {0, 0, 0, 1, 1, 1});  // R - s R - s
    for (const std::size_t i : {1u, 2u}) EXPECT_LT(distance(v[i], dense_[0]), 2e-3) << i;
    for (const std::size_t i : {3u, 4u, 5u}) EXPECT_LT(distance(v[i], dense_[1]), 2e-3) << i;
}

}  // namespace
}  // namespace quantsparse::tests
