"""Networks of the sample model: text encoder, diffusion transformer, video autoencoder."""
