// What tune() keeps comes back as it was; anything else in its place is as if there were nothing.
#include "vulkan/tuning_file.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace quantsparse::vulkan {
namespace {

namespace fs = std::filesystem;

class TuningFile : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::path(testing::TempDir()) /
                  testing::UnitTest::GetInstance()->current_test_info()->name();
        fs::remove_all(folder_);
    }
    void TearDown() override { fs::remove_all(folder_); }
    fs::path file() const { return folder_ / "cache" / "tuning.json"; }

    fs::path folder_;
};

TEST_F(TuningFile, ComesBackAsItWas) {
    for (const Tuning& tuning :
         {Tuning{Arithmetic::dot, 128, 16, -1}, Tuning{Arithmetic::matrix, 0, 0, 3}, Tuning{}}) {
        ASSERT_TRUE(write_tuning(file(), tuning));
        EXPECT_EQ(read_tuning(file()), tuning);
    }
    EXPECT_EQ(std::distance(fs::directory_iterator(file().parent_path()), {}), 1)
        << "nothing half-written";
}

TEST_F(TuningFile, IsNothingWhereThereIsNoPlace) {
    EXPECT_EQ(read_tuning(file()), std::nullopt);
    fs::create_directories(folder_);
    std::ofstream(folder_ / "cache") << "a file where the folder should be";
    EXPECT_FALSE(write_tuning(file(), {}));
    EXPECT_EQ(read_tuning(file()), std::nullopt);
}

TEST_F(TuningFile, BadFilesAreIgnored) {
    const std::string good =
        R"({"version":1,"arithmetic":"dot","product_lanes":64,"product_rows":16,"matrix_tile":-1})";
    const auto change = [&](const std::string& from, const std::string& to) {
        std::string text = good;
        text.replace(text.find(from), from.size(), to);
        return text;
    };
    fs::create_directories(file().parent_path());
    const auto read = [&](const std::string& text) {
        std::ofstream(file(), std::ios::trunc) << text;
        return read_tuning(file());
    };
    ASSERT_TRUE(read(good));
    for (const std::string& text :
         {std::string(), std::string("{"), std::string("[]"), good.substr(0, 40),
          change(R"("version":1)", R"("version":0)"), change(R"("version":1)", R"("version":"1")"),
          change(R"("dot")", R"("fast")"), change(R"("dot")", "3"), change(":64", ":-64"),
          change(":64", ":65"), change(":64", ":4096"), change(":64", ":1e99"),
          change(":16", ":12"), change(":16", ":\"16\""), change(":-1", ":-2"),
          change(":-1", ":99999999999"), change(R"("product_rows":16,)", "")}) {
        EXPECT_EQ(read(text), std::nullopt) << text;
    }
}

}  // namespace
}  // namespace quantsparse::vulkan
