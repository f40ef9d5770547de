"""What is learnt: PPO, the conditional diffusion model, and the files that keep them."""
