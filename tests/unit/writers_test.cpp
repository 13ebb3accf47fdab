// The writers against small readers of their own, on clips made here.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "format/safetensors.hpp"
#include "latents_file.hpp"
#include "output_file.hpp"
#include "quantsparse/error.hpp"
#include "stb_image.h"
#include "writer.hpp"

namespace quantsparse::video {
namespace {
namespace fs = std::filesystem;

using Frame = std::vector<std::uint8_t>;

class Writers : public testing::Test {
  protected:
    void SetUp() override {
        std::string name = (fs::temp_directory_path() / "quantsparse-writers-XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }
    void TearDown() override { fs::remove_all(folder_); }

    std::vector<std::string> left_over() const {
        std::vector<std::string> names;
        for (const auto& entry : fs::directory_iterator(folder_)) {
            names.push_back(entry.path().filename().string());
        }
        return names;
    }

    static std::string read(const fs::path& path) {
        std::ifstream file(path, std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }

    static void write_clip(const OutputTarget& target, const ClipProperties& properties,
                           const std::vector<Frame>& frames) {
        const auto writer = make_writer(target);
        writer->begin(properties);
        for (const Frame& frame : frames) {
            writer->write_frame(frame);
        }
        writer->finish();
    }

    // `colours` different values at random places.
    static Frame random_frame(int width, int height, int colours, unsigned seed) {
        std::mt19937 random(seed);
        std::vector<std::array<std::uint8_t, 3>> palette(static_cast<std::size_t>(colours));
        for (auto& colour : palette) {
            for (auto& channel : colour) {
                channel = static_cast<std::uint8_t>(random());
            }
        }
        Frame frame;
        for (int i = 0; i < width * height; ++i) {
            const auto& colour = palette[random() % palette.size()];
            frame.insert(frame.end(), colour.begin(), colour.end());
        }
        return frame;
    }

    fs::path folder_;
};

// A gif reader: the frames' pixels, the sum of their delays and the comment. Fails on anything that
// is not as the format has it.
struct GifClip {
    int width = 0, height = 0, delay = 0;
    std::string comment;
    std::vector<Frame> frames;
};

std::vector<int> decode_lzw(const std::string& data, int symbol_bits, std::size_t count) {
    const int clear = 1 << symbol_bits, end = clear + 1;
    std::vector<std::vector<int>> table;
    int bits = 0;
    std::size_t position = 0;  // in bits
    const auto reset = [&] {
        table.assign(static_cast<std::size_t>(end) + 1, {});
        for (int i = 0; i < clear; ++i) {
            table[static_cast<std::size_t>(i)] = {i};
        }
        bits = symbol_bits + 1;
    };
    std::vector<int> out, previous;
    reset();
    for (;;) {
        int code = 0;
        for (int b = 0; b < bits; ++b, ++position) {
            code |= (data.at(position / 8) >> (position % 8) & 1) << b;
        }
        if (code == end) {
            break;
        }
        if (code == clear) {
            reset();
            previous.clear();
            continue;
        }
        std::vector<int> entry;
        if (static_cast<std::size_t>(code) < table.size()) {
            entry = table[static_cast<std::size_t>(code)];
        } else {
            EXPECT_EQ(static_cast<std::size_t>(code), table.size());
            entry = previous;
            entry.push_back(previous.at(0));
        }
        out.insert(out.end(), entry.begin(), entry.end());
        if (!previous.empty() && table.size() < 4096) {
            previous.push_back(entry[0]);
            table.push_back(previous);
            if (table.size() == std::size_t{1} << bits && bits < 12) {
                ++bits;
            }
        }
        previous = entry;
    }
    EXPECT_EQ(out.size(), count);
    EXPECT_LE(data.size(), position / 8 + 1) << "bytes after the end code";
    return out;
}

GifClip read_gif(const std::string& file) {
    GifClip clip;
    std::size_t at = 0;
    const auto byte = [&] { return static_cast<unsigned char>(file.at(at++)); };
    const auto word = [&] {
        const int low = byte();
        return low | byte() << 8;
    };
    const auto sub_blocks = [&] {
        std::string data;
        while (const int size = byte()) {
            data += file.substr(at, static_cast<std::size_t>(size));
            at += static_cast<std::size_t>(size);
        }
        return data;
    };
    EXPECT_EQ(file.substr(0, 6), "GIF89a");
    at = 6;
    clip.width = word();
    clip.height = word();
    EXPECT_EQ(byte() & 0x80, 0) << "no global palette expected";
    at += 2;
    for (;;) {
        const int kind = byte();
        if (kind == 0x3B) {
            break;
        }
        if (kind == 0x21) {
            const int label = byte();
            const std::string data = sub_blocks();
            if (label == 0xFE) {
                clip.comment = data;
            } else if (label == 0xF9) {
                clip.delay += static_cast<unsigned char>(data.at(1)) |
                              static_cast<unsigned char>(data.at(2)) << 8;
            }
            continue;
        }
        if (kind != 0x2C) {
            ADD_FAILURE() << "unknown block " << kind << " at " << at - 1;
            break;
        }
        EXPECT_EQ(word() + word(), 0);
        EXPECT_EQ(word(), clip.width);
        EXPECT_EQ(word(), clip.height);
        const int colours = 2 << (byte() & 7);
        const std::string palette = file.substr(at, static_cast<std::size_t>(3 * colours));
        at += palette.size();
        const int symbol_bits = byte();
        const auto pixels = static_cast<std::size_t>(clip.width * clip.height);
        Frame frame;
        for (const int index : decode_lzw(sub_blocks(), symbol_bits, pixels)) {
            const std::string colour = palette.substr(static_cast<std::size_t>(3 * index), 3);
            frame.insert(frame.end(), colour.begin(), colour.end());
        }
        clip.frames.push_back(frame);
    }
    EXPECT_EQ(at, file.size());
    return clip;
}

TEST_F(Writers, OutputNameDecidesTheFormat) {
    EXPECT_EQ(resolve_output("a.mp4").container, Container::mp4);
    EXPECT_EQ(resolve_output("dir.x/a.WebM").container, Container::webm);
    EXPECT_EQ(resolve_output("-").container, Container::y4m);
    EXPECT_EQ(resolve_output("frames/").container, Container::png_folder);
    EXPECT_EQ(resolve_output("frames", "png").container, Container::png_folder);
    EXPECT_EQ(resolve_output("a.png").container, Container::png);
    EXPECT_EQ(resolve_output("clip.dat", "gif").container, Container::gif);
    EXPECT_EQ(resolve_output(folder_.string()).container, Container::png_folder);
    for (const auto& [name, format] : std::vector<std::pair<std::string, std::string>>{
             {"", ""}, {"a", ""}, {"a.avi", ""}, {"a.mp4", "avi"}, {"-", "mp4"}, {"d/", "gif"}}) {
        EXPECT_THROW(resolve_output(name, format), Error) << name << ' ' << format;
    }
}

TEST_F(Writers, AFileAppearsOnlyWhenItIsFinished) {
    const fs::path path = folder_ / "a.bin";
    {
        OutputFile file(path);
        file.write(std::string_view("half of it"));
        EXPECT_FALSE(fs::exists(path));
    }
    EXPECT_TRUE(left_over().empty());

    std::ofstream(path) << "old";
    {
        OutputFile file(path);
        file.write(std::string_view("new"));
        EXPECT_EQ(read(path), "old");
        file.finish();
    }
    EXPECT_EQ(read(path), "new");
    EXPECT_EQ(left_over(), std::vector<std::string>{"a.bin"});
}

TEST_F(Writers, UnwritablePlacesAreFoundOnOpening) {
    for (const char* name :
         {"missing/a.gif", "missing/a.y4m", "missing/pictures/", "missing/a.png"}) {
        try {
            make_writer(resolve_output((folder_ / name).string()));
            ADD_FAILURE() << "accepted " << name;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::io);
            EXPECT_NE(std::string(error.what()).find("missing"), std::string::npos) << error.what();
        }
    }
    EXPECT_TRUE(left_over().empty());
}

TEST_F(Writers, AFullDiskIsAnErrorAndLeavesNothing) {
    if (!fs::exists("/dev/full")) {
        GTEST_SKIP() << "no /dev/full here";
    }
    const std::vector<Frame> frames(3, random_frame(32, 32, 300, 1));
    std::vector<const char*> formats = {"gif", "y4m"};
#ifdef QUANTSPARSE_HAVE_LIBAV
    formats.insert(formats.end(), {"mp4", "webm"});
#endif
    for (const char* format : formats) {
        try {
            write_clip(resolve_output("/dev/full", format), {32, 32, 3}, frames);
            ADD_FAILURE() << "wrote " << format << " to a full disk";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::io);
            EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos)
                << error.what();
        }
    }
}

TEST_F(Writers, GifKeepsUpTo256ColoursExactly) {
    struct Case {
        int width, height, colours;
    };
    // One pixel; few colours; enough pixels to fill the code table several times.
    for (const Case& c : {Case{1, 1, 1}, Case{3, 5, 2}, Case{17, 9, 3}, Case{64, 48, 16},
                          Case{200, 150, 130}, Case{301, 203, 256}}) {
        const fs::path path = folder_ / "a.gif";
        const std::vector<Frame> frames = {random_frame(c.width, c.height, c.colours, 3),
                                           random_frame(c.width, c.height, c.colours, 4)};
        ClipProperties properties{c.width, c.height, 2};
        properties.comment = std::string(300, 'p') + "\xC3\xBC";
        write_clip(resolve_output(path.string()), properties, frames);
        const GifClip clip = read_gif(read(path));
        EXPECT_EQ(clip.width, c.width);
        EXPECT_EQ(clip.height, c.height);
        EXPECT_EQ(clip.comment, properties.comment);
        ASSERT_EQ(clip.frames.size(), 2u);
        EXPECT_TRUE(clip.frames[0] == frames[0] && clip.frames[1] == frames[1])
            << c.width << 'x' << c.height << ", " << c.colours << " colours";
    }
}

TEST_F(Writers, GifOfAFlatPictureNeedsLongStrings) {
    const Frame frame(std::size_t{3} * 400 * 300, 77);
    const fs::path path = folder_ / "flat.gif";
    write_clip(resolve_output(path.string()), {400, 300, 1}, {frame});
    EXPECT_EQ(read_gif(read(path)).frames.at(0), frame);
}

TEST_F(Writers, GifApproximatesSmoothColoursWithin8Levels) {
    Frame frame;
    for (int y = 0; y < 96; ++y) {
        for (int x = 0; x < 128; ++x) {
            frame.insert(frame.end(),
                         {static_cast<std::uint8_t>(2 * x), static_cast<std::uint8_t>(2 * y), 90});
        }
    }
    const fs::path path = folder_ / "smooth.gif";
    write_clip(resolve_output(path.string()), {128, 96, 1}, {frame});
    const GifClip clip = read_gif(read(path));
    double squared = 0;
    for (std::size_t i = 0; i < frame.size(); ++i) {
        const double difference = double(frame[i]) - clip.frames.at(0).at(i);
        squared += difference * difference;
    }
    EXPECT_LT(std::sqrt(squared / static_cast<double>(frame.size())), 8);
}

TEST_F(Writers, GifDelaysAddUpToTheClipsLength) {
    const fs::path path = folder_ / "a.gif";
    ClipProperties properties{4, 4, 33};
    properties.fps = {16, 1};
    write_clip(resolve_output(path.string()), properties,
               std::vector<Frame>(33, random_frame(4, 4, 4, 5)));
    EXPECT_EQ(read_gif(read(path)).delay, 206);  // 33 / 16 s = 206.25 hundredths
}

TEST_F(Writers, PngFolderKeepsEveryPixelAndTheParameters) {
    const std::vector<Frame> frames = {random_frame(31, 17, 400, 1), random_frame(31, 17, 9, 2)};
    ClipProperties properties{31, 17, 2};
    properties.comment = "{\"seed\":7}";
    const fs::path folder = folder_ / "pictures";
    for (int repeat = 0; repeat < 2; ++repeat) {  // a second run replaces the first
        write_clip(resolve_output(folder.string() + "/"), properties, frames);
        EXPECT_EQ(left_over(), std::vector<std::string>{"pictures"});
        for (int i = 0; i < 2; ++i) {
            const std::string name =
                (folder / ("frame_0000" + std::to_string(i) + ".png")).string();
            int width = 0, height = 0, channels = 0;
            std::unique_ptr<stbi_uc, decltype(&stbi_image_free)> pixels(
                stbi_load(name.c_str(), &width, &height, &channels, 3), stbi_image_free);
            ASSERT_NE(pixels, nullptr) << name;
            EXPECT_EQ(width, 31);
            EXPECT_EQ(height, 17);
            const Frame& frame = frames[static_cast<std::size_t>(i)];
            EXPECT_TRUE(std::equal(frame.begin(), frame.end(), pixels.get()));
            EXPECT_NE(read(name).find("parameters"), std::string::npos);
            EXPECT_NE(read(name).find(properties.comment), std::string::npos);
        }
    }
}

TEST_F(Writers, PngFolderNeverReplacesForeignFiles) {
    std::ofstream(folder_ / "diary.txt") << "dear";
    EXPECT_THROW(make_writer(resolve_output(folder_.string())), Error);
    EXPECT_EQ(left_over(), std::vector<std::string>{"diary.txt"});
}

TEST_F(Writers, AnUnfinishedClipLeavesNothing) {
    std::vector<const char*> names = {"a.gif", "a.y4m", "pictures/"};
#ifdef QUANTSPARSE_HAVE_LIBAV
    names.insert(names.end(), {"a.mp4", "a.webm"});
#endif
    for (const char* name : names) {
        {
            const auto writer = make_writer(resolve_output((folder_ / name).string()));
            writer->begin({32, 32, 5});
            writer->write_frame(random_frame(32, 32, 50, 1));
        }
        EXPECT_TRUE(left_over().empty()) << name;
    }
}

TEST_F(Writers, Y4mHasTheStandardColours) {
    const fs::path path = folder_ / "a.y4m";
    ClipProperties properties{2, 1, 1};
    properties.fps = {24, 1};
    write_clip(resolve_output(path.string()), properties, {{255, 255, 255, 255, 0, 0}});
    const std::string file = read(path);
    const std::string header = "YUV4MPEG2 W2 H1 F24:1 Ip A1:1 C444 XCOLORRANGE=LIMITED\nFRAME\n";
    ASSERT_EQ(file.substr(0, header.size()), header);
    const std::string planes = file.substr(header.size());
    // White and red in BT.601, limited range: Y 235 81, Cb 128 90, Cr 128 240.
    EXPECT_EQ(planes, "\xEB\x51\x80\x5A\x80\xF0");
}

#ifdef QUANTSPARSE_HAVE_LIBAV
TEST_F(Writers, Mp4AndWebmCarryTheParametersAndAreReproducible) {
    std::vector<Frame> frames;
    for (unsigned i = 0; i < 5; ++i) {
        frames.push_back(random_frame(48, 32, 20, i));
    }
    ClipProperties properties{48, 32, 5};
    properties.comment = "{\"prompt\":\"ein roter Kreis \xC3\xBC\"}";
    for (const std::string& name : {std::string("a.mp4"), std::string("a.webm")}) {
        write_clip(resolve_output((folder_ / name).string()), properties, frames);
        const std::string first = read(folder_ / name);
        EXPECT_NE(first.find(properties.comment), std::string::npos) << name;
        EXPECT_EQ(name == "a.mp4" ? first.substr(4, 4) : first.substr(0, 4),
                  name == "a.mp4" ? "ftyp" : "\x1A\x45\xDF\xA3");
        write_clip(resolve_output((folder_ / name).string()), properties, frames);
        EXPECT_EQ(first, read(folder_ / name)) << name;
    }
    ClipProperties odd{47, 32, 1};
    EXPECT_THROW(make_writer(resolve_output((folder_ / "b.mp4").string()))->begin(odd), Error);
}
#endif

TEST_F(Writers, LatentsOpenAsSafetensorsAndAsNumpy) {
    const std::vector<float> values = {1.5f, -2, 0, 3, 4, 5e-8f};
    LatentsFile(folder_ / "l.safetensors").write(values, {1, 2, 3});
    const format::SafetensorsFile file(folder_ / "l.safetensors");
    EXPECT_EQ(file.at("latents").shape, (std::vector<std::int64_t>{1, 2, 3}));
    EXPECT_EQ(format::to_float(file.at("latents")), values);

    LatentsFile(folder_ / "l.npy").write(values, {1, 2, 3});
    const std::string numpy = read(folder_ / "l.npy");
    EXPECT_EQ(numpy.substr(0, 8), std::string("\x93NUMPY\x01\0", 8));
    EXPECT_NE(numpy.find("'shape': (1, 2, 3,)"), std::string::npos);
    EXPECT_EQ((numpy.size() - values.size() * sizeof(float)) % 64, 0u);
    EXPECT_THROW(LatentsFile(folder_ / "l.bin"), Error);
}

}  // namespace
}  // namespace quantsparse::video
