# SPDX-License-Identifier: Apache-2.0
"""Pairs of answers to one question, on which the threshold of clusters_by_embedding was measured."""

SAME = [
    ("The capital of France is Paris.", "Paris is the capital city of France."),
    ("Paris", "It is Paris."),
    ("The capital of France is Paris.", "It's Paris."),
    ("Water boils at 100 degrees Celsius at sea level.", "At sea level, water boils at 100 °C."),
    ("Einstein developed the theory of relativity.", "The theory of relativity was developed by Einstein."),
    ("Plants make oxygen by photosynthesis.", "Through photosynthesis, plants produce oxygen."),
    ("I am sorry, I cannot help with that.", "Sorry, I can't help you with that."),
    ("Sleep helps the brain store memories.", "The brain stores memories while we sleep."),
    ("The meeting is on Monday at three.", "We meet at three o'clock on Monday."),
    ("Whales are mammals, not fish.", "A whale is a mammal and not a fish."),
    ("The film was boring and far too long.", "The movie was dull and much too long."),
    ("He sold his old car last week.", "Last week he sold his old car."),
    ("You should drink plenty of water every day.", "Drink a lot of water each day."),
    ("The Pacific is the largest ocean on Earth.", "The largest of the Earth's oceans is the Pacific."),
    ("Shakespeare wrote Hamlet around 1600.", "Hamlet was written by Shakespeare in about 1600."),
    (
        "The sun is a star at the centre of our solar system.",
        "Our solar system has a star, the sun, at its centre.",
    ),
    (
        "Regular exercise lowers the risk of heart disease.",
        "People who exercise regularly are less likely to get heart disease.",
    ),
    ("The train was late because of the snow.", "Because it snowed, the train was delayed."),
    (
        "To make tea, pour hot water over the leaves and wait.",
        "Tea is made by pouring hot water on the leaves and waiting.",
    ),
    (
        "Python is a programming language that is easy to read.",
        "Python is an easily readable programming language.",
    ),
    (
        "To make pancakes, mix flour, eggs and milk, then fry the batter in a hot pan. "
        "Serve them with syrup.",
        "Pancakes are made of flour, milk and eggs. Fry the mixture in a hot pan and add syrup.",
    ),
    (
        "The mobile phone changed how people talk. It let them call from anywhere and, later, read the news.",
        "People communicate differently since the mobile phone. They can call and even read news everywhere.",
    ),
    (
        "I would travel to Japan in spring. The cherry trees bloom then and the weather is mild.",
        "Spring is the best time for Japan, as the weather is mild and the cherry trees are in bloom.",
    ),
    (
        "A good password is long and used in one place only. A password manager remembers it for you.",
        "Use long passwords, a different one for each site, and let a password manager remember them.",
    ),
    (
        "Once there was a small robot who wanted to paint. It saved money and bought a box of colours.",
        "A little robot once dreamed of painting, so it put money aside until it could buy some colours.",
    ),
]

DIFFERENT = [
    ("The capital of France is Paris.", "The capital of France is Lyon."),
    ("Paris", "Lyon"),
    ("It is Paris.", "It is London."),
    ("Water boils at 100 degrees Celsius at sea level.", "Water freezes at 0 degrees Celsius at sea level."),
    ("Einstein developed the theory of relativity.", "Newton developed the theory of gravity."),
    ("Plants make oxygen by photosynthesis.", "Animals breathe oxygen to burn sugar."),
    ("I am sorry, I cannot help with that.", "Sure, here is a list of ideas."),
    ("Sleep helps the brain store memories.", "Sleep lets the muscles grow and heal."),
    ("The meeting is on Monday at three.", "The meeting was cancelled by the manager."),
    ("Whales are mammals, not fish.", "Whales are the largest fish in the sea."),
    ("The film was boring and far too long.", "The film was thrilling and I loved it."),
    ("He sold his old car last week.", "He bought a new bicycle last week."),
    ("You should drink plenty of water every day.", "You should sleep eight hours every night."),
    ("The Pacific is the largest ocean on Earth.", "The Sahara is the largest hot desert on Earth."),
    ("Shakespeare wrote Hamlet around 1600.", "Goethe wrote Faust around 1800."),
    ("The sun is a star at the centre of our solar system.", "The moon is a rock that circles the Earth."),
    ("Regular exercise lowers the risk of heart disease.", "Smoking raises the risk of lung cancer."),
    ("The train was late because of the snow.", "The train was late because of a strike."),
    (
        "To make tea, pour hot water over the leaves and wait.",
        "To make coffee, grind the beans and press them.",
    ),
    (
        "Python is a programming language that is easy to read.",
        "A python is a large snake that kills by squeezing.",
    ),
    (
        "To make pancakes, mix flour, eggs and milk, then fry the batter in a hot pan. "
        "Serve them with syrup.",
        "Pancakes are eaten all over the world. In France they are thin and called crêpes.",
    ),
    (
        "The mobile phone changed how people talk. It let them call from anywhere and, later, read the news.",
        "Mobile phones are made of glass, metal and plastic. Their batteries last about a day.",
    ),
    (
        "I would travel to Japan in spring. The cherry trees bloom then and the weather is mild.",
        "I would travel to Italy in autumn. The grapes are ripe then and the cities are quiet.",
    ),
    (
        "A good password is long and used in one place only. A password manager remembers it for you.",
        "A good password is your birthday, because you will never forget it. Use it everywhere.",
    ),
    (
        "Once there was a small robot who wanted to paint. It saved money and bought a box of colours.",
        "Once there was a young dragon who was afraid of fire. It asked an old owl for help.",
    ),
]

# Different in one word that turns the meaning: what an embedder sees little of.
LOOKALIKE = [
    ("The answer is 12.", "The answer is 15."),
    ("The bridge is safe.", "The bridge is not safe."),
    ("The war ended in 1945.", "The war ended in 1918."),
    ("Anna gave the book to Tom.", "Tom gave the book to Anna."),
    ("Prices will rise next year.", "Prices will fall next year."),
    ("The capital of Australia is Sydney.", "The capital of Australia is Canberra."),
    ("Yes.", "No."),
]
