// libquantsparse in sixty lines: open a device and a model, generate a clip with progress and
// cancel, use the frames (here: portable pixmaps that any viewer opens).
//
//   quantsparse-embed samples/models/shapes-tiny "a red circle moves left" frames/
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>

#include "quantsparse/error.hpp"
#include "quantsparse/pipeline.hpp"

namespace {

void write_frame(const quantsparse::Video& video, int frame, const std::filesystem::path& folder) {
    const auto bytes = static_cast<std::size_t>(video.width) * video.height * 3;
    std::ofstream file(folder / ("frame" + std::to_string(frame) + ".ppm"), std::ios::binary);
    file << "P6 " << video.width << ' ' << video.height << " 255\n";
    file.write(reinterpret_cast<const char*>(video.rgb.data() + bytes * frame),
               static_cast<std::streamsize>(bytes));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::cerr << "usage: quantsparse-embed MODEL PROMPT FOLDER\n";
        return 2;
    }
    try {
        const std::filesystem::path folder = argv[3];
        std::filesystem::create_directories(folder);

        quantsparse::Device device;  // the default one; DeviceOptions choose another
        quantsparse::Generator model(argv[1], device);

        quantsparse::GenerationParameters parameters;  // the rest is the model's own
        parameters.conditioning.prompt = argv[2];
        parameters.seed = 42;

        quantsparse::GenerationCallbacks callbacks;
        callbacks.progress = [](const quantsparse::Progress& progress) {
            std::cerr << progress.stage << ' ' << progress.done << '/' << progress.total << '\n';
            return true;  // false cancels between two submissions to the device
        };

        const std::optional<quantsparse::Video> video = model.generate(parameters, callbacks);
        if (!video) {
            return 1;  // cancelled
        }
        for (int frame = 0; frame < video->frames; ++frame) {
            write_frame(*video, frame, folder);
        }
        std::cout << video->frames << " frames in " << folder << '\n';
    } catch (const quantsparse::Error& error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
