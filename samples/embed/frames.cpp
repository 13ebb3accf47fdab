// libquantsparse from C++, by way of its C interface: handles that destroy themselves, errors as
// exceptions, the whole clip in memory.
//
//   c++ frames.cpp $(pkg-config --cflags --libs quantsparse) -o frames
//   ./frames samples/models/shapes-tiny "a red circle moves left"
#include <quantsparse.h>

#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

template <typename T, void (*kDestroy)(T*)>
struct Destroy {
    void operator()(T* object) const { kDestroy(object); }
};
using Device = std::unique_ptr<qs_device, Destroy<qs_device, qs_device_destroy>>;
using Generator = std::unique_ptr<qs_generator, Destroy<qs_generator, qs_generator_destroy>>;
using Video = std::unique_ptr<qs_video, Destroy<qs_video, qs_video_destroy>>;

class Check {
  public:
    Check() { qs_error_init(&error_); }
    qs_error* error() { return &error_; }
    void operator()(qs_status status) const {
        if (status != QS_OK) throw std::runtime_error(error_.message);
    }

  private:
    qs_error error_;
};

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 3) throw std::runtime_error("usage: frames MODEL PROMPT");
    Check check;
    qs_device* device = nullptr;
    check(qs_device_open(nullptr, &device, check.error()));
    const Device device_owner(device);

    qs_generator_options options;
    qs_generator_options_init(&options);
    options.model = argv[1];
    qs_generator* generator = nullptr;
    check(qs_generator_create(device, &options, &generator, check.error()));
    const Generator generator_owner(generator);

    qs_generation clip;
    qs_generation_init(&clip);
    clip.prompt = argv[2];
    clip.seed = 42;
    qs_video* video = nullptr;
    check(qs_generate(generator, &clip, nullptr, &video, check.error()));
    const Video video_owner(video);

    qs_video_info info;
    qs_video_info_init(&info);
    check(qs_video_get_info(video, &info, check.error()));
    const std::uint8_t* middle = qs_video_frame(video, info.frames / 2);
    const std::uint8_t* pixel = middle + 3 * (info.height / 2 * info.width + info.width / 2);
    std::cout << info.frames << " frames of " << info.width << "x" << info.height
              << "; in the middle " << int(pixel[0]) << ' ' << int(pixel[1]) << ' ' << int(pixel[2])
              << '\n';
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
