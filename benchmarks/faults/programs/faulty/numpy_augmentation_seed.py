# part: tune
# source: tanelp.github.io, Using PyTorch + NumPy? You're making a mistake (2021)
# expects: TT718
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class Crops(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        top = np.random.randint(0, 8)
        left = np.random.randint(0, 8)
        noise = np.random.normal(0, 0.1, size=(24, 24)).astype("float32")
        return torch.from_numpy(image[top:top + 24, left:left + 24] + noise)


loader = DataLoader(Crops(np.zeros((64, 32, 32), dtype="float32")), batch_size=8, num_workers=4)
