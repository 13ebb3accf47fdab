/* libquantsparse in C: a clip as portable pixmaps, with progress, and Ctrl-C that stops cleanly.
 *
 *   cc generate.c $(pkg-config --cflags --libs quantsparse) -o generate
 *   ./generate samples/models/shapes-tiny "a red circle moves left" frames
 */
#include <quantsparse.h>
#include <signal.h>
#include <stdio.h>

static qs_cancel* cancel;

static void on_interrupt(int number) {
    (void)number;
    qs_cancel_request(cancel);
}

static void on_log(void* user, qs_log_level level, const char* message) {
    (void)user;
    fprintf(stderr, "%s: %s\n", level == QS_LOG_WARNING ? "warning" : "note", message);
}

static void on_progress(void* user, const qs_progress* progress) {
    (void)user;
    fprintf(stderr, "\r%s %d/%d   ", progress->stage, progress->done, progress->total);
}

static void on_frame(void* user, const qs_picture* picture, int index) {
    char name[4096];
    FILE* file;
    snprintf(name, sizeof name, "%s/frame%03d.ppm", (const char*)user, index);
    file = fopen(name, "wb");
    if (!file) return;
    fprintf(file, "P6 %d %d 255\n", picture->width, picture->height);
    fwrite(picture->rgb, 3, (size_t)picture->width * (size_t)picture->height, file);
    fclose(file);
}

static void failed(const qs_error* error) {
    fprintf(stderr, "\n%s: %s\n", qs_status_string(error->status), error->message);
}

int main(int argc, char** argv) {
    qs_device* device = NULL;
    qs_generator* generator = NULL;
    qs_generator_options options;
    qs_generation clip;
    qs_callbacks callbacks;
    qs_error error;
    int result = 1;
    if (argc != 4) return fprintf(stderr, "usage: %s MODEL PROMPT FOLDER\n", argv[0]), 2;
    qs_error_init(&error);
    qs_generator_options_init(&options);
    options.model = argv[1];
    options.log = on_log;
    qs_generation_init(&clip); /* what is not set is the model's own */
    clip.prompt = argv[2];
    clip.seed = 42;
    qs_callbacks_init(&callbacks);
    callbacks.user = argv[3];
    callbacks.progress = on_progress;
    callbacks.frame = on_frame;
    callbacks.cancel = cancel = qs_cancel_create();
    signal(SIGINT, on_interrupt);

    if (qs_device_open(NULL, &device, &error) ||
        qs_generator_create(device, &options, &generator, &error) ||
        qs_generate(generator, &clip, &callbacks, NULL, &error)) {
        failed(&error);
    } else {
        fprintf(stderr, "\nwrote %s\n", argv[3]);
        result = 0;
    }
    qs_generator_destroy(generator);
    qs_device_destroy(device);
    qs_cancel_destroy(cancel);
    return result;
}
