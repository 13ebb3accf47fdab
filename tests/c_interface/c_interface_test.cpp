// The C interface of the shared library, which shows nothing else: sizes of structs, errors with
// their field, callbacks, cancel, and the same clip from every way to take it.
#include <gtest/gtest.h>
#include <quantsparse.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

const std::string kModel = std::string(QUANTSPARSE_TEST_ROOT) + "/samples/models/shapes-tiny";

struct Destroy {
    void operator()(qs_cancel* c) const { qs_cancel_destroy(c); }
    void operator()(qs_device* d) const { qs_device_destroy(d); }
    void operator()(qs_generator* g) const { qs_generator_destroy(g); }
    void operator()(qs_plan* p) const { qs_plan_destroy(p); }
    void operator()(qs_video* v) const { qs_video_destroy(v); }
};
template <typename T>
using Handle = std::unique_ptr<T, Destroy>;

struct Failure : qs_error {
    Failure() { qs_error_init(this); }
};

Handle<qs_device> open_device() {
    Failure error;
    qs_device* device = nullptr;
    EXPECT_EQ(qs_device_open(nullptr, &device, &error), QS_OK) << error.message;
    return Handle<qs_device>(device);
}

Handle<qs_generator> open_generator(qs_device* device, qs_log_fn log = nullptr,
                                    void* user = nullptr) {
    qs_generator_options options;
    qs_generator_options_init(&options);
    options.model = kModel.c_str();
    options.log = log;
    options.log_user = user;
    Failure error;
    qs_generator* generator = nullptr;
    EXPECT_EQ(qs_generator_create(device, &options, &generator, &error), QS_OK) << error.message;
    return Handle<qs_generator>(generator);
}

qs_generation small_clip() {
    qs_generation clip;
    qs_generation_init(&clip);
    clip.prompt = "a red circle moves left on a black background";
    clip.width = clip.height = 96;
    clip.frames = 9;
    clip.steps = 2;
    clip.seed = 3;
    return clip;
}

/// What the callbacks of a run were handed.
struct Seen {
    std::vector<std::uint8_t> rgb;
    std::vector<std::string> stages;
    int previews = 0;
    qs_cancel* cancel = nullptr;
    std::string cancel_at;  ///< a stage

    qs_callbacks callbacks() {
        qs_callbacks c;
        qs_callbacks_init(&c);
        c.user = this;
        c.progress = [](void* user, const qs_progress* progress) {
            auto& seen = *static_cast<Seen*>(user);
            if (seen.stages.empty() || seen.stages.back() != progress->stage) {
                seen.stages.emplace_back(progress->stage);
            }
            if (seen.cancel_at == progress->stage) qs_cancel_request(seen.cancel);
        };
        c.frame = [](void* user, const qs_picture* picture, int index) {
            auto& seen = *static_cast<Seen*>(user);
            const auto bytes = static_cast<std::size_t>(3 * picture->width * picture->height);
            EXPECT_EQ(seen.rgb.size(), static_cast<std::size_t>(index) * bytes) << "in order";
            seen.rgb.insert(seen.rgb.end(), picture->rgb, picture->rgb + bytes);
        };
        c.preview = [](void* user, const qs_picture* picture, int) {
            EXPECT_EQ(picture->width, 96);
            ++static_cast<Seen*>(user)->previews;
        };
        c.preview_interval = 1;
        c.cancel = cancel;
        return c;
    }
};

TEST(CInterface, TellsItsVersionAndNamesEachStatus) {
    int major = -1, minor = -1, patch = -1;
    qs_version(&major, &minor, &patch);
    qs_version(nullptr, nullptr, nullptr);
    EXPECT_EQ(std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch),
              qs_version_string());
    EXPECT_EQ(major, QS_VERSION_MAJOR);
    EXPECT_STREQ(qs_status_string(QS_CANCELLED), "cancelled");
    EXPECT_STREQ(qs_status_string(QS_INTERNAL), "internal error");
    EXPECT_STREQ(qs_status_string(static_cast<qs_status>(99)), "unknown status");
}

TEST(CInterface, SaysWhatIsNull) {
    Failure error;
    qs_device_list* list = nullptr;
    qs_device* device = nullptr;
    qs_generator* generator = nullptr;
    qs_plan* plan = nullptr;
    const qs_generation clip = small_clip();
    EXPECT_EQ(qs_device_list_create(nullptr, &error), QS_INVALID_ARGUMENT);
    EXPECT_STREQ(error.field, "list");
    EXPECT_EQ(qs_device_list_get(list, 0, nullptr, &error), QS_INVALID_ARGUMENT);
    EXPECT_EQ(qs_device_open(nullptr, nullptr, &error), QS_INVALID_ARGUMENT);
    EXPECT_STREQ(error.field, "device");
    EXPECT_EQ(qs_device_get_info(device, nullptr, &error), QS_INVALID_ARGUMENT);
    EXPECT_EQ(qs_generator_create(device, nullptr, &generator, &error), QS_INVALID_ARGUMENT);
    EXPECT_STREQ(error.field, "device");
    EXPECT_EQ(qs_generator_get_model_info(generator, nullptr, &error), QS_INVALID_ARGUMENT);
    EXPECT_EQ(qs_plan_create(generator, &clip, &plan, &error), QS_INVALID_ARGUMENT);
    EXPECT_EQ(qs_plan_get_memory(plan, nullptr, &error), QS_INVALID_ARGUMENT);
    EXPECT_EQ(qs_plan_get_stage(plan, 0, nullptr, &error), QS_INVALID_ARGUMENT);
    EXPECT_EQ(qs_generate(generator, &clip, nullptr, nullptr, nullptr), QS_INVALID_ARGUMENT)
        << "an error is not needed";
    EXPECT_EQ(qs_video_get_info(nullptr, nullptr, &error), QS_INVALID_ARGUMENT);
    EXPECT_EQ(qs_video_frame(nullptr, 0), nullptr);
    EXPECT_EQ(qs_video_latents(nullptr), nullptr);
    EXPECT_EQ(qs_device_list_count(nullptr), 0u);
    EXPECT_EQ(qs_plan_stage_count(nullptr), 0u);
    EXPECT_EQ(qs_cancel_requested(nullptr), 0);
    qs_cancel_request(nullptr);
    qs_cancel_reset(nullptr);
    qs_cancel_destroy(nullptr);
    qs_device_list_destroy(nullptr);
    qs_device_destroy(nullptr);
    qs_generator_destroy(nullptr);
    qs_plan_destroy(nullptr);
    qs_video_destroy(nullptr);
    qs_generation_init_sized(nullptr, sizeof(qs_generation));
}

TEST(CInterface, ListsDevicesAndOpensTheDefault) {
    Failure error;
    qs_device_list* list = nullptr;
    ASSERT_EQ(qs_device_list_create(&list, &error), QS_OK) << error.message;
    ASSERT_GT(qs_device_list_count(list), 0u);
    qs_device_info info;
    qs_device_info_init(&info);
    EXPECT_EQ(qs_device_list_get(list, 0, &info, &error), QS_OK);
    EXPECT_EQ(std::strlen(info.uuid), 32u);
    EXPECT_EQ(qs_device_list_get(list, 1000, &info, &error), QS_INVALID_ARGUMENT);
    EXPECT_STREQ(error.field, "index");
    qs_device_list_destroy(list);

    const auto device = open_device();
    EXPECT_EQ(qs_device_get_info(device.get(), &info, &error), QS_OK);
    EXPECT_GT(std::strlen(info.name), 0u);
    qs_device_options options;
    qs_device_options_init(&options);
    options.selector = "no such device";
    qs_device* other = nullptr;
    EXPECT_EQ(qs_device_open(&options, &other, &error), QS_DEVICE);
    EXPECT_NE(std::string(error.message).find("no such device"), std::string::npos);
    EXPECT_EQ(other, nullptr);
    options.selector = nullptr;
    options.arithmetic = static_cast<qs_arithmetic>(9);
    EXPECT_EQ(qs_device_open(&options, &other, &error), QS_INVALID_ARGUMENT);
    EXPECT_STREQ(error.field, "arithmetic");
}

TEST(CInterface, TakesShorterAndLongerStructsThanItsOwn) {
    const auto device = open_device();
    const auto generator = open_generator(device.get());
    Failure error;
    qs_plan* plan = nullptr;
    const auto status = [&](const qs_generation* clip) {
        const qs_status s = qs_plan_create(generator.get(), clip, &plan, &error);
        qs_plan_destroy(plan);
        return s;
    };
    qs_generation clip = small_clip();
    clip.size = 0;
    EXPECT_EQ(status(&clip), QS_INVALID_ARGUMENT);
    EXPECT_NE(std::string(error.message).find("_init"), std::string::npos);

    struct Longer {
        qs_generation known;
        double later;
    } longer{small_clip(), 0};
    longer.known.size = sizeof longer;
    EXPECT_EQ(status(&longer.known), QS_OK) << error.message;
    longer.later = 1;
    EXPECT_EQ(status(&longer.known), QS_UNSUPPORTED);

    // A program of before `density` was added.
    std::vector<unsigned char> shorter(offsetof(qs_generation, density), 0);
    const qs_generation whole = small_clip();
    std::memcpy(shorter.data(), &whole, shorter.size());
    const std::size_t size = shorter.size();
    std::memcpy(shorter.data(), &size, sizeof size);
    EXPECT_EQ(status(reinterpret_cast<const qs_generation*>(shorter.data())), QS_OK)
        << error.message;

    qs_model_info info;
    std::memset(&info, 0x5A, sizeof info);
    qs_model_info_init_sized(&info, offsetof(qs_model_info, fps));
    EXPECT_EQ(qs_generator_get_model_info(generator.get(), &info, &error), QS_OK);
    EXPECT_STREQ(info.architecture, "wan2.1-t2v");
    EXPECT_EQ(info.width, 192);
    const unsigned char* rest = reinterpret_cast<const unsigned char*>(&info.fps);
    EXPECT_EQ(rest[0], 0x5A) << "nothing is written beyond the caller's struct";
}

TEST(CInterface, NamesTheFieldAtFault) {
    const auto device = open_device();
    const auto generator = open_generator(device.get());
    const auto field_of = [&](auto change) {
        qs_generation clip = small_clip();
        change(clip);
        Failure error;
        EXPECT_EQ(qs_generate(generator.get(), &clip, nullptr, nullptr, &error),
                  QS_INVALID_ARGUMENT);
        EXPECT_GT(std::strlen(error.message), 0u);
        return std::string(error.field);
    };
    EXPECT_EQ(field_of([](qs_generation& c) { c.width = 97; }), "width");
    EXPECT_EQ(field_of([](qs_generation& c) { c.steps = -1; }), "steps");
    EXPECT_EQ(field_of([](qs_generation& c) { c.sampler = static_cast<qs_sampler>(50); }),
              "sampler");
    EXPECT_EQ(field_of([](qs_generation& c) { c.few_steps = static_cast<qs_few_steps>(9); }),
              "few_steps");
    EXPECT_EQ(field_of([](qs_generation& c) { c.timestep_count = 2; }), "timesteps");
    EXPECT_EQ(field_of([](qs_generation& c) { c.lora_count = 1; }), "loras");
    EXPECT_EQ(field_of([](qs_generation& c) {
                  c.attention = QS_ATTENTION_SPARSE;
                  c.density = 7;
              }),
              "density");

    qs_generator_options options;
    qs_generator_options_init(&options);
    options.model = "/no/such/model";
    Failure error;
    qs_generator* none = nullptr;
    EXPECT_EQ(qs_generator_create(device.get(), &options, &none, &error), QS_IO);
    EXPECT_NE(std::string(error.message).find("/no/such/model"), std::string::npos);
    qs_lora lora;
    qs_lora_init(&lora);
    EXPECT_EQ(lora.strength, 1);
}

TEST(CInterface, PlansEachStage) {
    const auto device = open_device();
    const auto generator = open_generator(device.get());
    const qs_generation clip = small_clip();
    Failure error;
    qs_plan* made = nullptr;
    ASSERT_EQ(qs_plan_create(generator.get(), &clip, &made, &error), QS_OK) << error.message;
    const Handle<qs_plan> plan(made);
    qs_memory memory;
    qs_memory_init(&memory);
    ASSERT_EQ(qs_plan_get_memory(plan.get(), &memory, &error), QS_OK);
    EXPECT_EQ(memory.fits, 1);
    ASSERT_EQ(qs_plan_stage_count(plan.get()), 3u);
    std::uint64_t largest = 0;
    for (std::size_t i = 0; i < 3; ++i) {
        qs_stage_memory stage;
        qs_stage_memory_init(&stage);
        ASSERT_EQ(qs_plan_get_stage(plan.get(), i, &stage, &error), QS_OK);
        largest = std::max(largest, stage.weight_bytes + stage.activation_bytes +
                                        stage.residual_bytes + stage.staging_bytes);
    }
    EXPECT_EQ(largest, memory.peak_bytes);
    qs_stage_memory stage;
    qs_stage_memory_init(&stage);
    EXPECT_EQ(qs_plan_get_stage(plan.get(), 3, &stage, &error), QS_INVALID_ARGUMENT);
}

TEST(CInterface, FramesComeAsTheyAreDecodedAndAreThoseOfTheVideo) {
    auto device = open_device();
    const auto generator = open_generator(device.get());
    device.reset();  // the generator keeps it
    Seen seen;
    const qs_callbacks callbacks = seen.callbacks();
    const qs_generation clip = small_clip();
    Failure error;
    qs_video* made = nullptr;
    ASSERT_EQ(qs_generate(generator.get(), &clip, &callbacks, &made, &error), QS_OK)
        << error.message;
    const Handle<qs_video> video(made);
    qs_video_info info;
    qs_video_info_init(&info);
    ASSERT_EQ(qs_video_get_info(video.get(), &info, &error), QS_OK);
    EXPECT_EQ(info.width, 96);
    EXPECT_EQ(info.frames, 9);
    EXPECT_EQ(info.latent_frames, 3);
    ASSERT_EQ(seen.rgb.size(), 9u * 96 * 96 * 3);
    EXPECT_EQ(std::memcmp(seen.rgb.data(), qs_video_frame(video.get(), 0), seen.rgb.size()), 0);
    EXPECT_EQ(qs_video_frame(video.get(), 9), nullptr);
    EXPECT_NE(qs_video_latents(video.get()), nullptr);
    EXPECT_EQ(seen.previews, 1) << "after the first of two steps";
    EXPECT_EQ(seen.stages, (std::vector<std::string>{"text", "load", "denoise", "decode"}));

    Seen again;
    const qs_callbacks only_frames = again.callbacks();
    ASSERT_EQ(qs_generate(generator.get(), &clip, &only_frames, nullptr, &error), QS_OK);
    EXPECT_EQ(again.rgb, seen.rgb);
}

TEST(CInterface, CancelsAtEveryStageAndFromAnotherThread) {
    const auto device = open_device();
    const auto generator = open_generator(device.get());
    const qs_generation clip = small_clip();
    const Handle<qs_cancel> cancel(qs_cancel_create());
    for (const char* stage : {"text", "load", "denoise", "decode"}) {
        Seen seen;
        seen.cancel = cancel.get();
        seen.cancel_at = stage;
        const qs_callbacks callbacks = seen.callbacks();
        Failure error;
        qs_video* video = nullptr;
        EXPECT_EQ(qs_generate(generator.get(), &clip, &callbacks, &video, &error), QS_CANCELLED)
            << stage;
        EXPECT_EQ(error.status, QS_CANCELLED);
        EXPECT_EQ(video, nullptr);
        EXPECT_EQ(seen.stages.back(), stage);
        EXPECT_EQ(qs_cancel_requested(cancel.get()), 1);
        EXPECT_EQ(qs_generate(generator.get(), &clip, &callbacks, nullptr, nullptr), QS_CANCELLED)
            << "it stays requested";
        qs_cancel_reset(cancel.get());
    }
    qs_generation longer = clip;
    longer.steps = 1000;
    qs_callbacks callbacks;
    qs_callbacks_init(&callbacks);
    callbacks.cancel = cancel.get();
    std::thread other([&] { qs_cancel_request(cancel.get()); });
    EXPECT_EQ(qs_generate(generator.get(), &longer, &callbacks, nullptr, nullptr), QS_CANCELLED);
    other.join();
}

TEST(CInterface, LogsWarningsAndSurvivesCallbacksThatThrow) {
    const auto device = open_device();
    std::string log;
    const auto generator = open_generator(
        device.get(),
        [](void* user, qs_log_level level, const char* message) {
            EXPECT_EQ(level, QS_LOG_WARNING);
            *static_cast<std::string*>(user) += message;
        },
        &log);
    qs_generation clip = small_clip();
    clip.negative_prompt = "a square";
    clip.guidance_scale = 1;
    qs_callbacks callbacks;
    qs_callbacks_init(&callbacks);
    callbacks.frame = [](void*, const qs_picture*, int) { throw std::string("no"); };
    Failure error;
    EXPECT_EQ(qs_generate(generator.get(), &clip, &callbacks, nullptr, &error), QS_INTERNAL);
    EXPECT_NE(log.find("negative prompt"), std::string::npos) << log;
    EXPECT_EQ(qs_generate(generator.get(), &clip, nullptr, nullptr, &error), QS_OK)
        << "the generator is as it was";
}

}  // namespace
