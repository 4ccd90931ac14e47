# %% [markdown]
# # PyTorch: a training loop, and a class as the model
#
# The loop logs its observations itself, `verta_hook` logs the layers, and the model that is deployed is a **class**: it
# loads the weights from an artifact and takes pixels as a client has them. One line is not as it was in a Verta
# notebook: the import. Data: scikit-learn's handwritten digits, which ship with it.
#
# `pip install "verta_local[torch,sklearn]"`

# %%
import torch
from sklearn.datasets import load_digits
from torch import nn

from verta_local import Client
from verta_local.integrations.torch import verta_hook
from verta_local.registry import VertaModelBase, verify_io

# %%
client = Client()
proj = client.set_project("Digits")
expt = client.set_experiment("Convolution")
run = client.set_experiment_run("first", tags=["pytorch"])

# %% [markdown]
# ## Data

# %%
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
labels = torch.tensor(labels)
train_set = torch.utils.data.TensorDataset(images[:1400], labels[:1400])
test_images, test_labels = images[1400:], labels[1400:]

# %% [markdown]
# ## Define and train

# %%
hyperparams = {"channels": 16, "dropout": 0.25, "lr": 0.005, "batch_size": 64, "num_epochs": 8}
run.log_hyperparameters(hyperparams)


class Net(nn.Module):
    def __init__(self, channels, dropout):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, kernel_size=3, padding=1)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(channels * 16, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)
        return self.out(self.drop(x.flatten(1)))


torch.manual_seed(0)
net = Net(hyperparams["channels"], hyperparams["dropout"])
handle = net.register_forward_hook(verta_hook(run))

# %%
loader = torch.utils.data.DataLoader(train_set, batch_size=hyperparams["batch_size"], shuffle=True)
optimizer = torch.optim.Adam(net.parameters(), lr=hyperparams["lr"])
criterion = nn.CrossEntropyLoss()

for epoch in range(hyperparams["num_epochs"]):
    net.train()
    total = 0.0
    for batch_images, batch_labels in loader:
        optimizer.zero_grad()
        loss = criterion(net(batch_images), batch_labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch_labels)
    net.eval()
    with torch.no_grad():
        test_acc = (net(test_images).argmax(1) == test_labels).float().mean()
    run.log_observation("train_loss", total / len(train_set), epoch_num=epoch)
    run.log_observation("test_acc", test_acc, epoch_num=epoch)  # a tensor is taken as the number that it is

run.log_metric("test_acc", test_acc)
print(f"accuracy on new digits: {test_acc:.1%}")

# %%
run

# %% [markdown]
# ## The model: a class with an artifact
#
# `__init__` gets the path of the weights, straight in the store. `predict` gets what JSON can hold, which `verify_io`
# checks here already. `model_test` is called before the model gets a request.

# %%
torch.save(net.state_dict(), "weights.pt")
run.log_artifact("weights", "weights.pt")


class DigitReader(VertaModelBase):
    def __init__(self, artifacts):
        self.net = Net(hyperparams["channels"], hyperparams["dropout"])
        self.net.load_state_dict(torch.load(artifacts["weights"], weights_only=True))
        self.net.eval()

    @verify_io
    def predict(self, pixels):
        with torch.no_grad():
            scores = self.net(torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8))
        return scores.argmax(1).tolist()

    def model_test(self):
        assert len(self.predict([[0.0] * 64])) == 1


model = DigitReader(run.fetch_artifacts(["weights"]))
model.predict(test_images[:3].flatten(1).tolist())

# %%
run.log_model(DigitReader, artifacts=["weights"])
run.log_requirements([f"torch=={torch.__version__}"])
run.deploy(wait=True)["status"]

# %%
deployed_model = run.get_deployed_model()
answers = torch.tensor(deployed_model.predict(test_images.flatten(1)))
print("served:", answers[:12].tolist())
print("truth: ", test_labels[:12].tolist())
print(f"accuracy over HTTP: {(answers == test_labels).float().mean():.1%} of {len(answers)}")

# %%
run.undeploy(wait=True)["status"]
