/**
 * @file quantsparse.h
 * The C interface of libquantsparse: text to video on any Vulkan 1.2 device.
 *
 * Objects are opaque. Structs begin with their size, which their _init function sets: fields may be added at the end
 * without breaking programs that were compiled before. A field of zero (NULL) means "the model's or the library's own
 * choice", unless it says otherwise. Strings are UTF-8 and copied where they are kept.
 *
 * Each function that can fail returns a qs_status, and fills a qs_error where one is given. The library prints
 * nothing, ends no process, installs no signal handler and has no state of its own beside the objects it returns.
 *
 * Threads: a device and its generators are used by one thread at a time; devices are independent of each other. A
 * qs_cancel may be requested from any thread and from a signal handler. Callbacks come from the thread that made the
 * call, messages of validation layers from any.
 */
#ifndef QUANTSPARSE_H
#define QUANTSPARSE_H

#include <stddef.h>
#include <stdint.h>

#define QS_VERSION_MAJOR 0
#define QS_VERSION_MINOR 1
#define QS_VERSION_PATCH 0

#if defined(_WIN32) && defined(QS_BUILD_SHARED)
#define QS_API __declspec(dllexport)
#elif defined(_WIN32) && !defined(QS_STATIC)
#define QS_API __declspec(dllimport)
#elif defined(__GNUC__)
#define QS_API __attribute__((visibility("default")))
#else
#define QS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- versions and errors ------------------------------------------------------------------- */

/** The library's version at run time. Any of the pointers may be NULL. */
QS_API void qs_version(int* major, int* minor, int* patch);
/** "0.1.0"; never freed. */
QS_API const char* qs_version_string(void);

typedef enum qs_status {
    QS_OK = 0,
    QS_CANCELLED = 1,
    QS_INVALID_ARGUMENT = 2, /**< a parameter is out of range, or two of them contradict each other */
    QS_BAD_FILE = 3,         /**< a file exists but its contents can't be trusted */
    QS_IO = 4,               /**< reading or writing failed */
    QS_UNSUPPORTED = 5,      /**< valid, but not something this version can do */
    QS_DEVICE = 6,           /**< no Vulkan, no such device, or the driver reported a failure */
    QS_OUT_OF_MEMORY = 7,    /**< of the device or of the host */
    QS_NON_FINITE = 8,       /**< NaN or infinity where numbers were expected */
    QS_INTERNAL = 9          /**< a fault of the library: please report it */
} qs_status;

/** What went wrong, in one line that says what to do next. */
typedef struct qs_error {
    size_t size;
    qs_status status;
    char field[64];     /**< the parameter at fault, as its struct calls it; "" when no single one is */
    char message[1024]; /**< cut where it is longer */
} qs_error;
QS_API void qs_error_init_sized(qs_error* error, size_t size);

/** "invalid argument"; never freed. Of any other number "unknown status". */
QS_API const char* qs_status_string(qs_status status);

/* ---- log and cancel ------------------------------------------------------------------------ */

typedef enum qs_log_level { QS_LOG_INFO = 0, QS_LOG_WARNING = 1, QS_LOG_ERROR = 2 } qs_log_level;
/** `message` is one line without its end, valid during the call. */
typedef void (*qs_log_fn)(void* user, qs_log_level level, const char* message);

/** Stops work that was given it at the next chance, between two submissions to the device. */
typedef struct qs_cancel qs_cancel;
/** NULL when memory is out. */
QS_API qs_cancel* qs_cancel_create(void);
/** May be called from any thread and from a signal handler; stays until it is reset. NULL is ignored. */
QS_API void qs_cancel_request(qs_cancel* cancel);
/** For the next work. */
QS_API void qs_cancel_reset(qs_cancel* cancel);
/** 1 after qs_cancel_request(), else 0. */
QS_API int qs_cancel_requested(const qs_cancel* cancel);
/** After the work that was given it has returned. */
QS_API void qs_cancel_destroy(qs_cancel* cancel);

/* ---- devices ------------------------------------------------------------------------------- */

/** How integer products are formed; all give the same clips. */
typedef enum qs_arithmetic {
    QS_ARITHMETIC_DEFAULT = 0,
    QS_ARITHMETIC_PORTABLE = 1,
    QS_ARITHMETIC_DOT = 2,
    QS_ARITHMETIC_MATRIX = 3
} qs_arithmetic;

/** Strings belong to the list or device that filled it. */
typedef struct qs_device_info {
    size_t size;
    int index;           /**< a number that qs_device_options::selector takes */
    const char* name;    /**< as the driver reports it */
    const char* driver;  /**< name and version */
    const char* uuid;    /**< 32 hexadecimal digits */
    const char* kind;    /**< "discrete", "integrated", "virtual", "cpu" or "other" */
    const char* note;    /**< why it is the default, or why it is not usable */
    uint64_t memory_bytes; /**< the largest device-local heap */
    int usable;
    int is_default;
} qs_device_info;
QS_API void qs_device_info_init_sized(qs_device_info* info, size_t size);

typedef struct qs_device_list qs_device_list;
/** All devices, usable or not. QS_DEVICE when there is no Vulkan loader or no driver. */
QS_API qs_status qs_device_list_create(qs_device_list** list, qs_error* error);
QS_API size_t qs_device_list_count(const qs_device_list* list);
QS_API qs_status qs_device_list_get(const qs_device_list* list, size_t index, qs_device_info* info, qs_error* error);
QS_API void qs_device_list_destroy(qs_device_list* list);

typedef struct qs_device_options {
    size_t size;
    const char* selector;        /**< an index, a UUID or a part of the name */
    qs_arithmetic arithmetic;
    uint64_t memory_limit;       /**< bytes; 0: what the device reports as its budget */
    const char* cache_directory; /**< of compiled kernels; NULL: the user's cache */
    int validation;              /**< not 0: Khronos validation, when installed; its messages go to `log` */
    qs_log_fn log;               /**< from any thread */
    void* log_user;
} qs_device_options;
QS_API void qs_device_options_init_sized(qs_device_options* options, size_t size);

typedef struct qs_device qs_device;
/** `options` may be NULL. */
QS_API qs_status qs_device_open(const qs_device_options* options, qs_device** device, qs_error* error);
QS_API qs_status qs_device_get_info(const qs_device* device, qs_device_info* info, qs_error* error);
/** Generators that use it keep it open until they are destroyed, too. */
QS_API void qs_device_destroy(qs_device* device);

/* ---- models -------------------------------------------------------------------------------- */

typedef enum qs_storage { QS_STORAGE_DEFAULT = 0, QS_STORAGE_FP32 = 1, QS_STORAGE_HALF = 2 } qs_storage;

typedef struct qs_generator_options {
    size_t size;
    const char* model; /**< a folder, or a file of quantsparse-calibrate; NULL where the parts name all */
    const char* transformer;
    const char* text_encoder;
    const char* vae;
    const char* tokenizer;
    qs_storage storage; /**< of floating-point weights on the device; default fp32 */
    int weight_bits;    /**< 8: rounds the transformer's weights as they are loaded; 0: as the file has them */
    qs_log_fn log;      /**< of this generator: what files hold that is not used, what was done differently */
    void* log_user;
} qs_generator_options;
QS_API void qs_generator_options_init_sized(qs_generator_options* options, size_t size);

typedef struct qs_generator qs_generator;
/** Reads headers and small files: under a second on a local disk. */
QS_API qs_status qs_generator_create(qs_device* device, const qs_generator_options* options, qs_generator** generator,
                                     qs_error* error);
/** NULL is ignored, as by all _destroy functions. */
QS_API void qs_generator_destroy(qs_generator* generator);

typedef enum qs_sampler {
    QS_SAMPLER_DEFAULT = 0,
    QS_SAMPLER_UNIPC = 1,
    QS_SAMPLER_DPMPP = 2,
    QS_SAMPLER_EULER = 3,
    QS_SAMPLER_LCM = 4,
    QS_SAMPLER_DDIM = 5,
    QS_SAMPLER_DMD = 6,
    QS_SAMPLER_RCM = 7
} qs_sampler;

/** What a clip is where nothing is asked. Strings belong to the generator. */
typedef struct qs_model_info {
    size_t size;
    const char* architecture; /**< "wan2.1-t2v" */
    const char* quantization; /**< "none", "w4a8", ... */
    int width, height, frames;
    double fps;
    int steps;
    double guidance_scale;
    double flow_shift;
    qs_sampler sampler;
} qs_model_info;
QS_API void qs_model_info_init_sized(qs_model_info* info, size_t size);
QS_API qs_status qs_generator_get_model_info(const qs_generator* generator, qs_model_info* info, qs_error* error);

/* ---- what is generated --------------------------------------------------------------------- */

typedef enum qs_lora_target { QS_LORA_BOTH = 0, QS_LORA_HIGH_NOISE = 1, QS_LORA_LOW_NOISE = 2 } qs_lora_target;

typedef struct qs_lora {
    size_t size;
    const char* file;
    double strength; /**< -100 to 100; _init sets 1 */
    qs_lora_target target; /**< of models with two transformers */
} qs_lora;
QS_API void qs_lora_init_sized(qs_lora* lora, size_t size);

typedef enum qs_rng { QS_RNG_PHILOX = 0, QS_RNG_TORCH = 1 } qs_rng;
typedef enum qs_few_steps {
    QS_FEW_STEPS_NONE = 0,
    QS_FEW_STEPS_LIGHTX2V_4 = 1,
    QS_FEW_STEPS_FASTWAN_3 = 2,
    QS_FEW_STEPS_TURBO_4 = 3
} qs_few_steps;
/** Of models that were trained with sparse-linear attention the default is that, and the others are refused. */
typedef enum qs_attention { QS_ATTENTION_DEFAULT = 0, QS_ATTENTION_DENSE = 1, QS_ATTENTION_SPARSE = 2 } qs_attention;
typedef enum qs_attention_arithmetic {
    QS_ATTENTION_ARITHMETIC_FULL = 0,
    QS_ATTENTION_ARITHMETIC_INT8_QK = 1,
    QS_ATTENTION_ARITHMETIC_INT8 = 2
} qs_attention_arithmetic;
typedef enum qs_residual { QS_RESIDUAL_DEFAULT = 0, QS_RESIDUAL_HALF = 1, QS_RESIDUAL_INT8 = 2, QS_RESIDUAL_INT4 = 3 } qs_residual;

typedef struct qs_generation {
    size_t size;
    const char* prompt;          /**< may be "" or NULL: unconditional */
    const char* negative_prompt;
    int width, height;           /**< pixels */
    int frames;
    uint64_t seed;
    qs_rng rng;
    int steps;                   /**< 1 to 1000; of a list of timesteps as many as it has */
    qs_sampler sampler;
    double guidance_scale;       /**< 0: the model's; 1: no guidance */
    double flow_shift;           /**< 0: the model's */
    const double* timesteps;     /**< falling, at most 1000, before the shift; NULL: evenly spread */
    size_t timestep_count;
    qs_few_steps few_steps;      /**< a distilled model's sampler, list and shift under one name */
    double step_cache;           /**< threshold of reused steps (TeaCache); 0: none is */
    const qs_lora* loras;        /**< an array whose elements have the size that the first one says */
    size_t lora_count;
    qs_attention attention;
    qs_attention_arithmetic attention_arithmetic;
    double density;              /**< of sparse attention; 0: a quarter, or the model's own */
    int dense_layers;            /**< first layers that stay dense: 0: one; -1: none */
    int refreshes;               /**< dense steps among sparse ones; 0: as many as suit */
    qs_residual residual;        /**< how corrections are kept between refreshes */
} qs_generation;
QS_API void qs_generation_init_sized(qs_generation* generation, size_t size);

/* ---- memory, before anything is allocated -------------------------------------------------- */

typedef struct qs_plan qs_plan;
typedef struct qs_memory {
    size_t size;
    uint64_t peak_bytes;   /**< stages run one after another: the largest of them */
    uint64_t budget_bytes; /**< what the device or its limit allows; 0: unknown */
    uint64_t least_bytes;  /**< the smallest budget that works */
    int fits;
    const char* decision;  /**< one line: how the clip is fitted into the budget; belongs to the plan */
} qs_memory;
QS_API void qs_memory_init_sized(qs_memory* memory, size_t size);
typedef struct qs_stage_memory {
    size_t size;
    const char* stage; /**< "text_encoder", "dit", "vae"; belongs to the plan */
    uint64_t weight_bytes, activation_bytes, residual_bytes, staging_bytes;
    uint64_t host_bytes; /**< of weights that are streamed from host memory */
} qs_stage_memory;
QS_API void qs_stage_memory_init_sized(qs_stage_memory* memory, size_t size);

QS_API qs_status qs_plan_create(const qs_generator* generator, const qs_generation* generation, qs_plan** plan,
                                qs_error* error);
QS_API qs_status qs_plan_get_memory(const qs_plan* plan, qs_memory* memory, qs_error* error);
QS_API size_t qs_plan_stage_count(const qs_plan* plan);
QS_API qs_status qs_plan_get_stage(const qs_plan* plan, size_t index, qs_stage_memory* memory, qs_error* error);
QS_API void qs_plan_destroy(qs_plan* plan);

/* ---- generating ---------------------------------------------------------------------------- */

typedef struct qs_progress {
    size_t size;
    const char* stage; /**< "load", "text", "denoise", "decode" */
    int done, total;   /**< denoising steps, or equal parts of the stage */
    double elapsed_seconds;
    double remaining_seconds; /**< of this stage; negative: not known yet */
} qs_progress;

/** RGB, 8 bits each, rows from top to bottom without gaps; valid during the call that hands it out. */
typedef struct qs_picture {
    size_t size;
    int width, height;
    const uint8_t* rgb;
} qs_picture;

/** Any of the functions may be NULL. None may throw, or call a function of the same device. */
typedef struct qs_callbacks {
    size_t size;
    void* user; /**< handed to each of them */
    void (*progress)(void* user, const qs_progress* progress); /**< at least once a second */
    void (*preview)(void* user, const qs_picture* picture, int step); /**< the first frame as the clip is heading */
    int preview_interval; /**< steps from one preview to the next; 0: none */
    void (*frame)(void* user, const qs_picture* picture, int index); /**< each frame in order, as soon as it is decoded */
    qs_cancel* cancel;
} qs_callbacks;
QS_API void qs_callbacks_init_sized(qs_callbacks* callbacks, size_t size);

typedef struct qs_video qs_video;
typedef struct qs_video_info {
    size_t size;
    int width, height, frames;
    double fps;
    int latent_channels, latent_frames, latent_height, latent_width;
} qs_video_info;
QS_API void qs_video_info_init_sized(qs_video_info* info, size_t size);

/**
 * Blocks until the clip is done. QS_CANCELLED when `callbacks->cancel` was requested; then and after an error there is
 * no video. QS_OUT_OF_MEMORY before anything is allocated when the plan exceeds the budget. With `video` NULL the
 * frames are only handed to callbacks->frame, and host memory does not hold them. `callbacks` may be NULL.
 */
QS_API qs_status qs_generate(qs_generator* generator, const qs_generation* generation, const qs_callbacks* callbacks,
                             qs_video** video, qs_error* error);
QS_API qs_status qs_video_get_info(const qs_video* video, qs_video_info* info, qs_error* error);
/** RGB of a frame, 3 * width * height bytes that belong to the video; NULL when there is no such frame. */
QS_API const uint8_t* qs_video_frame(const qs_video* video, int index);
/** [channels, frames, height, width] as the transformer sees them; belongs to the video. */
QS_API const float* qs_video_latents(const qs_video* video);
QS_API void qs_video_destroy(qs_video* video);

/* ---- _init: sets the size, and every field to what it means when nobody sets it ------------- */

static inline void qs_error_init(qs_error* error) { qs_error_init_sized(error, sizeof(qs_error)); }
static inline void qs_device_info_init(qs_device_info* info) { qs_device_info_init_sized(info, sizeof(qs_device_info)); }
static inline void qs_device_options_init(qs_device_options* options) {
    qs_device_options_init_sized(options, sizeof(qs_device_options));
}
static inline void qs_generator_options_init(qs_generator_options* options) {
    qs_generator_options_init_sized(options, sizeof(qs_generator_options));
}
static inline void qs_model_info_init(qs_model_info* info) { qs_model_info_init_sized(info, sizeof(qs_model_info)); }
static inline void qs_lora_init(qs_lora* lora) { qs_lora_init_sized(lora, sizeof(qs_lora)); }
static inline void qs_generation_init(qs_generation* generation) {
    qs_generation_init_sized(generation, sizeof(qs_generation));
}
static inline void qs_memory_init(qs_memory* memory) { qs_memory_init_sized(memory, sizeof(qs_memory)); }
static inline void qs_stage_memory_init(qs_stage_memory* memory) {
    qs_stage_memory_init_sized(memory, sizeof(qs_stage_memory));
}
static inline void qs_callbacks_init(qs_callbacks* callbacks) { qs_callbacks_init_sized(callbacks, sizeof(qs_callbacks)); }
static inline void qs_video_info_init(qs_video_info* info) { qs_video_info_init_sized(info, sizeof(qs_video_info)); }

#ifdef __cplusplus
}
#endif

#endif
