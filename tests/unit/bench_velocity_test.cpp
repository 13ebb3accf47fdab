// What `quantsparse-bench velocity` makes of errors, tables and stored runs, by numbers written out
// by hand.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "bench/quality/models.hpp"
#include "bench/quality/results.hpp"
#include "bench/quality/table.hpp"
#include "bench/velocity/snr.hpp"
#include "bench/velocity/trajectory.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

namespace fs = std::filesystem;

fs::path scratch(const char* name) {
    return fs::path(testing::TempDir()) / (std::string("quantsparse-velocity-") + name);
}

std::string error_of(const std::string& table) {
    const fs::path file = scratch("table.json");
    std::ofstream(file) << table;
    try {
        read_quality_table(file);
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

QualityTable small_table() {
    QualityTable table;
    table.model = "own";
    table.settings = {"--size", "96x96"};
    table.prompts = {"a", "b"};
    table.groups = {{"g", "", "", "", {}, "", {{"row", "", {}, {}}}}};
    return table;
}

TEST(TableOptions, PutModelPromptsAndSettingsInPlaceOfTheTables) {
    TableOptions options;
    options.model = "other";
    options.prompt_file = scratch("prompts.txt");
    options.settings = {"--size", "64x64"};
    std::ofstream(options.prompt_file) << "a red fox\r\n\n  \na hare";
    const QualityTable table = selected(small_table(), options);
    EXPECT_EQ(table.model, "other");
    EXPECT_EQ(table.prompts, (std::vector<std::string>{"a red fox", "a hare"}));
    EXPECT_EQ(table.settings,
              (std::vector<std::string>{"--size", "96x96", "--size", "64x64"}));  // the last counts

    std::ofstream(options.prompt_file) << "a red fox\na cat";
    EXPECT_NE(settings_text(selected(small_table(), options)), settings_text(table))
        << "results of other prompts are not used";
    std::ofstream(options.prompt_file) << " \n";
    EXPECT_THROW(selected(small_table(), options), Error);
    options.prompt_file = scratch("none.txt");
    EXPECT_THROW(selected(small_table(), options), Error);
}

TEST(References, HaveANameForEachPromptAndSetting) {
    const QualityTable table = small_table();
    QualityTable other = table;
    other.prompts[1] = "c";
    EXPECT_EQ(reference_name(table, {}, 0), reference_name(other, {}, 0));
    EXPECT_NE(reference_name(table, {}, 1), reference_name(other, {}, 1));
    EXPECT_NE(reference_name(table, {}, 0), reference_name(table, {"--steps", "4"}, 0));
    // FNV-1a of "a", as its authors publish it.
    EXPECT_EQ(fingerprint("a"), "af63dc4c8601ec8c");
}

TEST(CalibratedModels, OfOtherFlagsAreNotTakenForTheTables) {
    const fs::path folder = scratch("models");
    fs::create_directories(folder);
    QualityTable table = small_table();
    table.models = {{"m", {"--preset", "fast"}}};
    std::ofstream(model_file(folder, "m")) << "weights";
    std::ofstream(model_file(folder, "m").string() + ".flags") << "own --preset fast\n";
    EXPECT_EQ(calibrated_model(table, folder, "m"), model_file(folder, "m"));
    table.models["m"] = {"--preset", "minmax"};
    EXPECT_THROW(calibrated_model(table, folder, "m"), Error);
    fs::remove_all(folder);
}

TEST(VelocitySnr, IsTheRelativeEnergyOfTheDifference) {
    const std::vector<float> reference = {3, 0, 4}, a = {3, 0.5, 4};
    EXPECT_DOUBLE_EQ(relative_error(a, reference), 0.01);
    EXPECT_DOUBLE_EQ(decibels(0.01), 20);
    EXPECT_EQ(decibels(0), 120);
    EXPECT_EQ(decibels(1e-30), 120);
}

TEST(VelocitySnr, LevelsAreAveragedInDecibelsAndPathsBefore) {
    EXPECT_DOUBLE_EQ(signal_to_noise(Measure::levels, {0.1, 0.001}), 20);
    EXPECT_DOUBLE_EQ(signal_to_noise(Measure::path, {0.02, 0}), 20) << "a refresh has no error";
    EXPECT_DOUBLE_EQ(signal_to_noise(Measure::latents, {0.01}), 20);
}

TEST(VelocitySnr, LevelsAreTheMiddlesOfEqualParts) {
    EXPECT_EQ(level_steps(20, 5), (std::vector<int>{2, 6, 10, 14, 18}));
    EXPECT_EQ(level_steps(50, 5), (std::vector<int>{5, 15, 25, 35, 45}));
    EXPECT_EQ(level_steps(3, 5), (std::vector<int>{0, 1, 2}));
}

TEST(Estimate, PairsByPromptAndLeavesOutWhatOnlyOneHas) {
    const Estimate e = paired_difference({{0, 10}, {1, 12}, {2, 99}}, {{0, 9}, {1, 9}, {3, 5}});
    EXPECT_EQ(e.count, 2);
    EXPECT_DOUBLE_EQ(e.mean, 2);
    EXPECT_DOUBLE_EQ(e.standard_error, 1);  // 1 and 3: deviation sqrt(2), over sqrt(2)
}

TEST(ResultsFile, GoesOnAfterALineThatWasCutShort) {
    const fs::path file = scratch("results.jsonl");
    fs::remove(file);
    ResultsFile(file, "a").add("row", 3, {{"value", 1.5}});
    std::ofstream(file, std::ios::app) << R"({"row": "row", "pro)";
    const ResultsFile again(file, "a");
    EXPECT_TRUE(again.has("row", 3));
    EXPECT_FALSE(again.has("row", 2));
    EXPECT_EQ(again.of("row").at(3), (Json{{"value", 1.5}}));
    EXPECT_FALSE(ResultsFile(file, "b").has("row", 3)) << "other settings";
}

TEST(Table, OfVelocitySaysHowAGroupIsMeasuredAndAgainstWhat) {
    const fs::path file = scratch("table.json");
    std::ofstream(file) << R"({"title": "t", "model": "m", "prompts": ["p"], "groups": [
        {"title": "g", "measure": "path", "settings": ["--steps", "4"], "against": "b",
         "rows": [{"name": "a"}, {"name": "b", "flags": ["--attention", "sparse"]}]}]})";
    const QualityGroup group = read_quality_table(file).groups.front();
    EXPECT_EQ(measure_of(group.measure), Measure::path);
    EXPECT_EQ(joined(group.settings), "--steps 4");
    EXPECT_EQ(group.base().flags.size(), 2u);
}

TEST(Table, RefusesWhatItDoesNotKnow) {
    const auto table = [](const std::string& group) {
        return R"({"title": "t", "model": "m", "prompts": ["p"], "groups": [)" + group + "]}";
    };
    EXPECT_NE(
        error_of(table(R"({"title": "g", "rows": [{"name": "a", "flag": []}]})")).find("flag"),
        std::string::npos);
    EXPECT_NE(error_of(table(R"({"title": "g", "agianst": "a", "rows": [{"name": "a"}]})"))
                  .find("agianst"),
              std::string::npos);
    EXPECT_NE(
        error_of(table(R"({"title": "g", "against": "b", "rows": [{"name": "a"}]})")).find("'b'"),
        std::string::npos);
    EXPECT_NE(error_of(table(R"({"title": "g", "rows": []})")).find("no rows"), std::string::npos);
    EXPECT_THROW(measure_of("clips"), Error);
}

TEST(Trajectory, ReadsBackStepByStep) {
    const fs::path file = scratch("000.trajectory");
    TrajectoryWriter out(file, 2);
    for (const float value : {1, 2, 3, 4, 5}) out.add(std::vector<float>{value, -value});
    out.finish();
    Trajectory in(file);
    EXPECT_EQ(in.steps(), 2);
    EXPECT_EQ(in.latent(1), (std::vector<float>{3, -3}));
    EXPECT_EQ(in.prediction(0), (std::vector<float>{2, -2}));
    EXPECT_EQ(in.final_latent(), (std::vector<float>{5, -5}));
}

TEST(Trajectory, LeavesNothingOfARunThatWasStopped) {
    const fs::path file = scratch("002.trajectory");
    TrajectoryWriter(file, 2).add(std::vector<float>{1});
    EXPECT_FALSE(fs::exists(file));
    EXPECT_FALSE(fs::exists(file.string() + ".part"));
}

TEST(Trajectory, RefusesFilesThatAreCutOrDamaged) {
    const fs::path file = scratch("001.trajectory");
    TrajectoryWriter out(file, 1);
    for (int i = 0; i < 3; ++i) out.add(std::vector<float>(4));
    out.finish();
    fs::resize_file(file, fs::file_size(file) - 1);
    EXPECT_THROW(Trajectory{file}, Error);
    fs::resize_file(file, 10);
    EXPECT_THROW(Trajectory{file}, Error);
    std::ofstream(file) << std::string(72, 'x');
    EXPECT_THROW(Trajectory{file}, Error);
    EXPECT_THROW(Trajectory{scratch("none")}, Error);
}

}  // namespace
}  // namespace quantsparse::bench
