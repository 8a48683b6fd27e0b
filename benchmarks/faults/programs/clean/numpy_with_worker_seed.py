# part: report
# source: workers that seed NumPy themselves
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.tensor(np.random.rand(4), dtype=torch.float32)


def seed_worker(worker_id):
    np.random.seed(torch.initial_seed() % 2**32)


loader = DataLoader(Noisy(), batch_size=8, num_workers=2, worker_init_fn=seed_worker)
