// The calibrator's own networks against the reference cases of tests/golden/data.
#include <gtest/gtest.h>

#include "calib/forward.hpp"
#include "calib/registry.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::calib {
namespace {

class GoldenNetworks : public testing::Test {
  protected:
    void SetUp() override {
        root_ = format::test::golden_root();
        if (root_.empty()) {
            GTEST_SKIP() << "no reference data: QUANTSPARSE_GOLDEN is not set";
        }
    }

    nlohmann::json case_of(const std::string& name) const {
        std::ifstream stream(root_ / name / "case.json");
        return nlohmann::json::parse(stream);
    }

    std::filesystem::path weights(const std::string& name) const {
        const auto index = root_ / name / "model.safetensors.index.json";
        return std::filesystem::exists(index) ? index : root_ / name / "model.safetensors";
    }

    format::Component component_of(const std::string& name, const char* kind_name) const {
        const auto& kind = format::network_kind(kind_name);
        return {
            kind.describe(case_of(name)["config"], nullptr, name),
            std::make_shared<format::Checkpoint>(format::Checkpoint::open(weights(name), kind))};
    }

    static at::Tensor tensor(const format::SafetensorsFile& io, const std::string& name) {
        const auto& view = io.at(name);
        auto result = at::empty(view.shape, at::kFloat);
        format::to_float(view,
                         {result.data_ptr<float>(), static_cast<std::size_t>(result.numel())});
        return result;
    }

    /// The case's own fp32 tolerance, relative L2.
    static void expect_close(const at::Tensor& ours, const at::Tensor& expected, double tolerance,
                             const std::string& what) {
        ASSERT_EQ(ours.sizes(), expected.sizes()) << what;
        const double error = (ours - expected).norm().item<double>();
        EXPECT_LE(error / expected.norm().item<double>(), tolerance) << what;
    }

    std::filesystem::path root_;
};

TEST_F(GoldenNetworks, TransformerVelocities) {
    for (const std::string name :
         {"wan-dit-plain", "wan-dit-odd", "wan-dit-hd128", "wan-dit-f32-multi-t"}) {
        if (!std::filesystem::exists(root_ / name)) continue;  // the large case is not in the tree
        const auto description = case_of(name);
        const auto component = component_of(name, "wan-dit");
        const format::SafetensorsFile io(root_ / name / "io.safetensors");
        // Both ways to hold the blocks must give the same.
        for (const std::uint64_t cache : {std::uint64_t{1} << 30, std::uint64_t{0}}) {
            Forward forward(component, 2, cache);
            std::vector<TransformerInput> inputs;
            for (const auto& run : description["runs"]) {
                const auto id = run["id"].get<std::string>();
                inputs.push_back({tensor(io, id + ".in.latent"),
                                  {{"context", tensor(io, id + ".in.context")}},
                                  tensor(io, id + ".in.timestep").item<double>()});
            }
            const auto velocities = forward.run(inputs);
            for (std::size_t i = 0; i < velocities.size(); ++i) {
                const auto id = description["runs"][i]["id"].get<std::string>();
                expect_close(velocities[i], tensor(io, id + ".out.velocity"), 1.1e-5, name + id);
            }
        }
    }
}

TEST_F(GoldenNetworks, TransformerInputsOfTheOutputProjections) {
    const std::string name = "wan-dit-odd";
    const auto component = component_of(name, "wan-dit");
    const auto& blocks = component.network.blocks;
    const format::SafetensorsFile io(root_ / name / "io.safetensors");
    Forward forward(component);
    int seen = 0;
    forward.run(
        {{tensor(io, "r0.in.latent"), {{"context", tensor(io, "r0.in.context")}}, 3.0}},
        [&](std::size_t, int block, std::string_view group, const at::Tensor& rows) {
            ++seen;
            EXPECT_EQ(rows.size(1), group_of(blocks.front(), group).width);
            if (block == 0 && group == "self_o") {
                expect_close(rows, tensor(io, "r0.mid.block0.self_attn.attn"), 1.1e-5, "self");
            } else if (block == 0 && group == "cross_o") {
                expect_close(rows, tensor(io, "r0.mid.block0.cross_attn.attn"), 1.1e-5, "cross");
            } else if (group == "cross_kv") {
                expect_close(rows, tensor(io, "r0.mid.text_embedding"), 1.1e-5, "text");
            }
        });
    EXPECT_EQ(seen, 7 * std::ssize(blocks));
}

TEST_F(GoldenNetworks, TextEncoderContexts) {
    for (const std::string name : {"umt5-plain", "umt5-long-f32"}) {
        const auto description = case_of(name);
        const auto component = component_of(name, "umt5");
        const format::SafetensorsFile io(root_ / name / "io.safetensors");
        for (const auto& run : description["runs"]) {
            const auto id = run["id"].get<std::string>();
            auto ids = format::to_int32(io.at(id + ".in.ids"));
            ids.resize(run["valid_tokens"].get<std::size_t>());
            expect_close(encode_text(component, ids), tensor(io, id + ".out.context"), 1.1e-5,
                         name + id);
        }
    }
}

}  // namespace
}  // namespace quantsparse::calib
