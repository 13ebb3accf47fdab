// Names of outputs that are more than a file's: links, pipes, the program's own descriptors.
#include "output_place.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <future>
#include <iterator>

#include "output_file.hpp"
#include "quantsparse/error.hpp"
#include "unit/format_support.hpp"
#include "writer.hpp"

namespace quantsparse::video {
namespace {
namespace fs = std::filesystem;
using Kind = OutputPlace::Kind;

class OutputNames : public testing::Test {
  protected:
    static std::string read(const fs::path& path) {
        std::ifstream file(path, std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }
    static void write(const fs::path& name, const std::string& text) {
        OutputFile file(name);
        file.write(std::string_view(text));
        file.finish();
    }
    format::test::TemporaryFolder folder_;
};

TEST_F(OutputNames, ALinkStaysAndItsTargetIsWritten) {
    fs::create_directory(folder_ / "far");
    fs::create_symlink("far/target", folder_ / "near");
    fs::create_symlink("near", folder_ / "link");
    for (const char* text :
         {"first", "second"}) {  // a target that is not there yet, and one that is
        write(folder_ / "link", text);
        EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
        EXPECT_TRUE(fs::is_symlink(folder_ / "near"));
        EXPECT_FALSE(fs::is_symlink(folder_ / "far/target"));
        EXPECT_EQ(read(folder_ / "far/target"), text);
    }
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "far"), {}), 1);
}

TEST_F(OutputNames, ALinkToAFolderOfPicturesStays) {
    fs::create_directory(folder_ / "pictures");
    fs::create_directory_symlink("pictures", folder_ / "link");
    const auto writer = make_writer(resolve_output((folder_ / "link/").string()));
    writer->begin({2, 2, 1});
    writer->write_frame(std::vector<std::uint8_t>(12, 7));
    writer->finish();
    EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
    EXPECT_TRUE(fs::exists(folder_ / "pictures/frame_00000.png"));
}

TEST_F(OutputNames, LinksInACircleAreAnError) {
    fs::create_symlink("b", folder_ / "a");
    fs::create_symlink("a", folder_ / "b");
    EXPECT_THROW(find_output_place(folder_ / "a"), Error);
}

TEST_F(OutputNames, LinksToOwnDescriptorsAreWrittenWhereTheyStand) {
    const int descriptor =
        ::open((folder_ / "file").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_GE(descriptor, 0);
    ASSERT_EQ(::write(descriptor, "before ", 7), 7);
    const std::string number = std::to_string(descriptor);
    fs::create_symlink("/proc/self/fd/" + number, folder_ / "link");
    for (const fs::path& name : {folder_ / "link", fs::path("/dev/fd/" + number)}) {
        const OutputPlace place = find_output_place(name);
        EXPECT_EQ(place.kind, Kind::descriptor);
        EXPECT_EQ(place.descriptor, descriptor);
    }
    write(folder_ / "link", "after");
    ::close(descriptor);
    EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
    EXPECT_EQ(read(folder_ / "file"), "before after");
    format::test::expect_error(ErrorCode::io, {number, "can't write"},
                               [&] { OutputFile closed("/dev/fd/" + number); });
    EXPECT_EQ(find_output_place("-").descriptor, STDOUT_FILENO);
    EXPECT_EQ(find_output_place(folder_ / "fd/1").kind, Kind::file);
}

TEST_F(OutputNames, WhatNeedsAFileRefusesAPipeAndLetsItsReaderGo) {
    const fs::path pipe = folder_ / "pipe";
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    fs::create_symlink("pipe", folder_ / "link");
    for (const char* name : {"pipe", "link"}) {
        auto reader = std::async(std::launch::async, [&] { return read(pipe); });
        format::test::expect_error(ErrorCode::invalid_argument, {name, "mp4"},
                                   [&] { resolve_output((folder_ / name).string(), "mp4"); });
        EXPECT_EQ(reader.get(), "");
    }
    EXPECT_THROW(resolve_output("/dev/fd/1", "webm"), Error);
    EXPECT_EQ(resolve_output(pipe.string(), "gif").container, Container::gif);
    EXPECT_EQ(find_output_place("/dev/null").kind, Kind::device);
}

TEST_F(OutputNames, APipeIsWrittenDirectly) {
    const fs::path pipe = folder_ / "pipe";
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    auto reader = std::async(std::launch::async, [&] { return read(pipe); });
    write(pipe, "through");
    EXPECT_EQ(reader.get(), "through");
    EXPECT_TRUE(fs::is_fifo(pipe));
}

TEST_F(OutputNames, TheLongestNameOfTheFileSystemIsWritten) {
    std::string name;
    for (int i = 0; i < 83; ++i) name += "模";
    name += ".gif";
    write(folder_ / name, "long");
    EXPECT_EQ(read(folder_ / name), "long");
    EXPECT_THROW(find_output_place(folder_ / std::string(256, 'a')), Error);
}

TEST_F(OutputNames, ANameGivenTwiceIsRefusedHoweverItIsWritten) {
    fs::create_directory(folder_ / "d");
    fs::create_symlink("a.gif", folder_ / "link.gif");
    const auto names = [&](const char* one, const char* other) {
        return std::vector<fs::path>{folder_ / one, folder_ / other};
    };
    for (const auto& pair :
         {names("a.gif", "a.gif"), names("a.gif", "d/../a.gif"), names("a.gif", "link.gif"),
          names("frames/", "frames"), std::vector<fs::path>{"-", "/dev/fd/1"}}) {
        EXPECT_THROW(require_distinct(pair), Error) << pair[0] << ' ' << pair[1];
    }
    EXPECT_NO_THROW(require_distinct(names("a.gif", "b.gif")));
    EXPECT_NO_THROW(require_distinct({"/dev/null", "/dev/null"}));
}

}  // namespace
}  // namespace quantsparse::video
