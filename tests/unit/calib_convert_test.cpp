#include "calib/convert_pth.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

#include "calib/calibrate.hpp"
#include "calib/pickle_reader.hpp"
#include "format/mapped_file.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::calib {
namespace {

using format::test::expect_error;
using format::test::TemporaryFolder;

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

/// Runs a Python script with `torch` as the system's interpreter has it; false when it has not.
bool run_python(const TemporaryFolder& folder, const std::string& body) {
    format::test::write_text(folder / "make.py", body);
    const std::string command =
        "cd '" + folder.path().string() + "' && /usr/bin/python3 make.py >/dev/null 2>&1";
    return std::system("/usr/bin/python3 -c 'import torch' >/dev/null 2>&1") == 0 &&
           std::system(command.c_str()) == 0;
}

TEST(ConvertPth, ConvertsAStateDictWithItsTypesViewsAndAttributes) {
    const TemporaryFolder folder;
    if (!run_python(folder, R"(
import torch
m = torch.nn.Sequential(torch.nn.Linear(3, 2))
d = m.state_dict()                       # an OrderedDict with _metadata
d["0.weight"] = torch.tensor([[1., 2., 3.], [4., 5., 6.]], dtype=torch.bfloat16)
d["transposed"] = torch.arange(6.).view(2, 3).t()
d["part"] = torch.arange(10, dtype=torch.float16)[4:7]
d["ids"] = torch.tensor([7, -8])
d["parameter"] = torch.nn.Parameter(torch.tensor([0.5]))
torch.save(d, "model.pth")
)")) {
        GTEST_SKIP() << "no Python with torch";
    }
    EXPECT_EQ(convert_folder(folder.path(), false).size(), 1U);
    const format::SafetensorsFile file(folder / "model.safetensors");
    const auto& weight = file.at("0.weight");
    EXPECT_EQ(weight.dtype, format::DType::bf16);
    EXPECT_EQ(weight.shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(format::to_float(weight), (std::vector<float>{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(file.at("0.bias").dtype, format::DType::f32);
    EXPECT_EQ(file.at("transposed").shape, (std::vector<std::int64_t>{3, 2}));
    EXPECT_EQ(format::to_float(file.at("transposed")), (std::vector<float>{0, 3, 1, 4, 2, 5}));
    EXPECT_EQ(format::to_float(file.at("part")), (std::vector<float>{4, 5, 6}));
    EXPECT_EQ(format::to_int32(file.at("ids")), (std::vector<std::int32_t>{7, -8}));
    EXPECT_EQ(format::to_float(file.at("parameter")), std::vector<float>{0.5f});
    EXPECT_TRUE(convert_folder(folder.path(), false).empty()) << "converted twice";
}

TEST(ConvertPth, AnOriginalReleaseFolderIsCalibratedAsItIs) {
    const TemporaryFolder folder;
    format::test::TinyModel tiny;
    tiny.text_encoder.vocab_size = 512;
    const auto release = folder / "release";
    format::test::write_network(release / "diffusion_pytorch_model.safetensors",
                                tiny.transformer_network().tensors);
    format::test::write_text(release / "config.json",
                             format::test::config_of(tiny.transformer_network()).dump());
    const std::filesystem::path source = QUANTSPARSE_TEST_ROOT;
    std::filesystem::create_directories(release / "google" / "umt5-xxl");
    std::filesystem::copy_file(
        source / "samples" / "models" / "shapes-tiny" / "tokenizer" / "spiece.model",
        release / "google" / "umt5-xxl" / "spiece.model");
    const auto shapes_of = [](const std::vector<format::TensorSpec>& tensors) {
        auto shapes = nlohmann::json::object();
        for (const auto& tensor : tensors) {
            shapes[tensor.name] = tensor.shape;
        }
        return shapes.dump();
    };
    format::test::write_text(folder / "t5.json", shapes_of(tiny.text_encoder_network().tensors));
    format::test::write_text(folder / "vae.json", shapes_of(tiny.vae_network().tensors));
    if (!run_python(folder, R"(
import json, torch
for shapes, name in (("t5.json", "models_t5_umt5-xxl-enc-bf16.pth"), ("vae.json", "Wan2.1_VAE.pth")):
    tensors = {k: (torch.rand(s) * 0.2).bfloat16() for k, s in json.load(open(shapes)).items()}
    torch.save(tensors, "release/" + name)
)")) {
        GTEST_SKIP() << "no Python with torch";
    }
    CalibrationOptions options;
    options.model.model = release;
    options.output = folder / "out.safetensors";
    options.samples = 1;
    options.steps = 1;
    options.width = 32;
    options.height = 32;
    options.frames = 5;
    calibrate(options, false);
    const auto model = format::open_model(options.output);
    EXPECT_EQ(model.quantization.name(), "w4a8");
    EXPECT_EQ(model.at("vae").checkpoint->at("decoder.conv1.weight").dtype, format::DType::bf16);
    EXPECT_TRUE(std::filesystem::exists(release / "Wan2.1_VAE.safetensors"));
}

TEST(ConvertPth, TruncatedAndForeignFilesAreRefused) {
    const TemporaryFolder folder;
    format::test::write_text(folder / "text.pth", "this is no archive");
    expect_error(ErrorCode::bad_file, {"text.pth", "not a zip archive"},
                 [&] { convert_pth(folder / "text.pth", folder / "out.safetensors", false); });
    if (run_python(folder, R"(
import torch
torch.save({"a": torch.zeros(1000)}, "cut.pth")
data = open("cut.pth", "rb").read()
open("cut.pth", "wb").write(data[: len(data) // 2])
torch.save(torch.nn.Linear(2, 2), "module.pth")
)")) {
        expect_error(ErrorCode::bad_file, {"cut.pth"},
                     [&] { convert_pth(folder / "cut.pth", folder / "out.safetensors", false); });
        expect_error(ErrorCode::unsupported, {"module.pth", "state_dict"}, [&] {
            convert_pth(folder / "module.pth", folder / "out.safetensors", false);
        });
    }
    EXPECT_FALSE(std::filesystem::exists(folder / "out.safetensors"));
}

TEST(PickleReader, RefusesCodeAndDamage) {
    // os.system("...") as a pickle would call it.
    expect_error(ErrorCode::unsupported, {"evil.pth", "os system"}, [&] {
        read_state_dict(bytes_of(std::string("\x80\x02"
                                             "cos\nsystem\nX\x02\0\0\0ls\x85R.",
                                             25)),
                        "evil.pth");
    });
    expect_error(ErrorCode::bad_file, {"ends early"},
                 [&] { read_state_dict(bytes_of("\x80\x02}q"), "x"); });
    expect_error(ErrorCode::bad_file, {"stack is empty"},
                 [&] { read_state_dict(bytes_of("\x80\x02R."), "x"); });
    expect_error(ErrorCode::bad_file, {"passes the end"},
                 [&] { read_state_dict(bytes_of(std::string("X\xFF\xFF\xFF\x7F", 5)), "x"); });
    expect_error(ErrorCode::unsupported, {"opcode"},
                 [&] { read_state_dict(bytes_of("i.."), "x"); });
    expect_error(ErrorCode::unsupported, {"dictionary"},
                 [&] { read_state_dict(bytes_of("]."), "x"); });
    expect_error(ErrorCode::unsupported, {"no tensors"},
                 [&] { read_state_dict(bytes_of("}."), "x"); });
}

}  // namespace
}  // namespace quantsparse::calib
