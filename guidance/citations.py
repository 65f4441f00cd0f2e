"""The papers behind the constructors: BibTeX by arXiv number."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Paper:
    """One paper on arXiv.

    Attributes:
        key: what it is cited by in LaTeX.
        authors: as BibTeX takes them, ``Family, Given and Family, Given``; ``others`` for the
            rest of a long list.
        title: its current title on arXiv.
        year: of the first version.
    """

    key: str
    authors: str
    title: str
    year: int


PAPERS: dict[str, Paper] = {
    "2201.11793": Paper(
        "kawar2022ddrm",
        "Kawar, Bahjat and Elad, Michael and Ermon, Stefano and Song, Jiaming",
        "Denoising Diffusion Restoration Models",
        2022,
    ),
    "2201.09865": Paper(
        "lugmayr2022repaint",
        "Lugmayr, Andreas and Danelljan, Martin and Romero, Andres and Yu, Fisher and Timofte, "
        "Radu and Van Gool, Luc",
        "RePaint: Inpainting using Denoising Diffusion Probabilistic Models",
        2022,
    ),
    "2209.14687": Paper(
        "chung2022dps",
        "Chung, Hyungjin and Kim, Jeongsol and Mccann, Michael T. and Klasky, Marc L. and Ye, "
        "Jong Chul",
        "Diffusion Posterior Sampling for General Noisy Inverse Problems",
        2022,
    ),
    "2212.00490": Paper(
        "wang2022ddnm",
        "Wang, Yinhuai and Yu, Jiwen and Zhang, Jian",
        "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model",
        2022,
    ),
    "2302.07121": Paper(
        "bansal2023universal",
        "Bansal, Arpit and Chu, Hong-Min and Schwarzschild, Avi and Sengupta, Soumyadip and "
        "Goldblum, Micah and Geiping, Jonas and Goldstein, Tom",
        "Universal Guidance for Diffusion Models",
        2023,
    ),
    "2303.09833": Paper(
        "yu2023freedom",
        "Yu, Jiwen and Wang, Yinhuai and Zhao, Chen and Ghanem, Bernard and Zhang, Jian",
        "FreeDoM: Training-Free Energy-Guided Conditional Diffusion Model",
        2023,
    ),
    "2310.00224": Paper(
        "nair2023steered",
        "Nair, Nithin Gopalakrishnan and Cherian, Anoop and Lohit, Suhas and Wang, Ye and "
        "Koike-Akino, Toshiaki and Patel, Vishal M. and Marks, Tim K.",
        "Steered Diffusion: A Generalized Framework for Plug-and-Play Conditional Image Synthesis",
        2023,
    ),
    "2311.16424": Paper(
        "he2023mpgd",
        "He, Yutong and Murata, Naoki and Lai, Chieh-Hsin and Takida, Yuhta and Uesaka, Toshimitsu "
        "and Kim, Dongjun and Liao, Wei-Hsiang and Mitsufuji, Yuki and Kolter, J. Zico and "
        "Salakhutdinov, Ruslan and Ermon, Stefano",
        "Manifold Preserving Guided Diffusion",
        2023,
    ),
    "2409.15761": Paper(
        "ye2024tfg",
        "Ye, Haotian and Lin, Haowei and Han, Jiaqi and Xu, Minkai and Liu, Sheng and Liang, Yitao "
        "and Ma, Jianzhu and Zou, James and Ermon, Stefano",
        "TFG: Unified Training-Free Guidance for Diffusion Models",
        2024,
    ),
    "2105.05233": Paper(
        "dhariwal2021adm",
        "Dhariwal, Prafulla and Nichol, Alex",
        "Diffusion Models Beat GANs on Image Synthesis",
        2021,
    ),
    "2205.11487": Paper(
        "saharia2022imagen",
        "Saharia, Chitwan and others",
        "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
        2022,
    ),
    "2206.01714": Paper(
        "liu2022composable",
        "Liu, Nan and Li, Shuang and Du, Yilun and Torralba, Antonio and Tenenbaum, Joshua B.",
        "Compositional Visual Generation with Composable Diffusion Models",
        2022,
    ),
    "2207.12598": Paper(
        "ho2022cfg",
        "Ho, Jonathan and Salimans, Tim",
        "Classifier-Free Diffusion Guidance",
        2022,
    ),
    "2211.09800": Paper(
        "brooks2022instructpix2pix",
        "Brooks, Tim and Holynski, Aleksander and Efros, Alexei A.",
        "InstructPix2Pix: Learning to Follow Image Editing Instructions",
        2022,
    ),
    "2212.09748": Paper(
        "peebles2022dit",
        "Peebles, William and Xie, Saining",
        "Scalable Diffusion Models with Transformers",
        2022,
    ),
    "2304.04968": Paper(
        "armandpour2023perpneg",
        "Armandpour, Mohammadreza and Sadeghian, Ali and Zheng, Huangjie and Sadeghian, Amir and "
        "Zhou, Mingyuan",
        "Re-imagine the Negative Prompt Algorithm: Transform 2D Diffusion into 3D, alleviate "
        "Janus problem and Beyond",
        2023,
    ),
    "2305.08891": Paper(
        "lin2023flawed",
        "Lin, Shanchuan and Liu, Bingchen and Li, Jiashi and Yang, Xiao",
        "Common Diffusion Noise Schedules and Sample Steps are Flawed",
        2023,
    ),
    "2310.11311": Paper(
        "ma2023elucd",
        "Ma, Jiajun and Hu, Tianyang and Wang, Wenjia and Sun, Jiacheng",
        "Elucidating The Design Space of Classifier-Guided Diffusion Generation",
        2023,
    ),
    "2310.17347": Paper(
        "sadat2023cads",
        "Sadat, Seyedmorteza and Buhmann, Jakob and Bradley, Derek and Hilliges, Otmar and "
        "Weber, Romann M.",
        "CADS: Unleashing the Diversity of Diffusion Models through Condition-Annealed Sampling",
        2023,
    ),
    "2312.02696": Paper(
        "karras2023edm2",
        "Karras, Tero and Aittala, Miika and Lehtinen, Jaakko and Hellsten, Janne and "
        "Aila, Timo and Laine, Samuli",
        "Analyzing and Improving the Training Dynamics of Diffusion Models",
        2023,
    ),
    "2312.12487": Paper(
        "castillo2023adaptive",
        "Castillo, Angela and Kohler, Jonas and P{\\'e}rez, Juan C. and P{\\'e}rez, Juan Pablo and "
        "Pumarola, Albert and Ghanem, Bernard and Arbel{\\'a}ez, Pablo and Thabet, Ali",
        "Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models",
        2023,
    ),
    "2403.17377": Paper(
        "ahn2024pag",
        "Ahn, Donghoon and Cho, Hyoungwon and Min, Jaewon and Jang, Wooseok and Kim, Jungwoo and "
        "Kim, SeonHwa and Park, Hyun Hee and Jin, Kyong Hwan and Kim, Seungryong",
        "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance",
        2024,
    ),
    "2402.14167": Paper(
        "pan2024tstitch",
        "Pan, Zizheng and Zhuang, Bohan and Huang, De-An and others",
        "T-Stitch: Accelerating Sampling in Pre-Trained Diffusion Models with Trajectory Stitching",
        2024,
    ),
    "2404.07724": Paper(
        "kynkaanniemi2024interval",
        'Kynk{\\"a}{\\"a}nniemi, Tuomas and Aittala, Miika and Karras, Tero and Laine, Samuli and '
        "Aila, Timo and Lehtinen, Jaakko",
        "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in "
        "Diffusion Models",
        2024,
    ),
    "2404.13040": Paper(
        "wang2024schedulers",
        "Wang, Xi and Dufour, Nicolas and Andreou, Nefeli and Cani, Marie-Paule and "
        "Fern{\\'a}ndez Abrevaya, Victoria and Picard, David and Kalogeiton, Vicky",
        "Analysis of Classifier-Free Guidance Weight Schedulers",
        2024,
    ),
    "2406.02507": Paper(
        "karras2024autoguidance",
        'Karras, Tero and Aittala, Miika and Kynk{\\"a}{\\"a}nniemi, Tuomas and '
        "Lehtinen, Jaakko and Aila, Timo and Laine, Samuli",
        "Guiding a Diffusion Model with a Bad Version of Itself",
        2024,
    ),
    "2406.08070": Paper(
        "chung2024cfgpp",
        "Chung, Hyungjin and Kim, Jeongsol and Park, Geon Yeong and Nam, Hyelin and Ye, Jong Chul",
        "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models",
        2024,
    ),
    "2407.02687": Paper(
        "sadat2024notraining",
        "Sadat, Seyedmorteza and Kansy, Manuel and Hilliges, Otmar and Weber, Romann M.",
        "No Training, No Problem: Rethinking Classifier-Free Guidance for Diffusion Models",
        2024,
    ),
    "2408.00760": Paper(
        "hong2024seg",
        "Hong, Susung",
        "Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of "
        "Attention",
        2024,
    ),
    "2410.02416": Paper(
        "sadat2024apg",
        "Sadat, Seyedmorteza and Hilliges, Otmar and Weber, Romann M.",
        "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
        2024,
    ),
    "2411.10257": Paper(
        "adaloglou2024swg",
        "Adaloglou, Nikolas and Kaiser, Tim and Iagudin, Damir and Kollmann, Markus",
        "Guiding a Diffusion Model with Itself Using Sliding Windows",
        2024,
    ),
    "2411.15393": Paper(
        "shenoy2024gfcg",
        "Shenoy, Rahul and Pan, Zhihong and Balakrishnan, Kaushik and Cheng, Qisen and others",
        "Gradient-Free Classifier Guidance for Diffusion Model Sampling",
        2024,
    ),
    "2412.09966": Paper(
        "zhang2024epcfg",
        "Zhang, Kai and Luan, Fujun and Bi, Sai and Zhang, Jianming",
        "EP-CFG: Energy-Preserving Classifier-Free Guidance",
        2024,
    ),
    "2501.18865": Paper(
        "gao2025reg",
        "Gao, Zhengqi and Zha, Kaiwen and Zhang, Tianyuan and Xue, Zihui and Boning, Duane S.",
        "REG: Rectified Gradient Guidance for Conditional Diffusion Models",
        2025,
    ),
    "2503.02819": Paper(
        "skreta2025fkc",
        "Skreta, Marta and Akhound-Sadegh, Tara and Ohanesian, Viktor and Bondesan, Roberto and "
        "Aspuru-Guzik, Al{\\'a}n and Doucet, Arnaud and Brekelmans, Rob and Tong, Alexander and "
        "Neklyudov, Kirill",
        "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts",
        2025,
    ),
    "2503.18137": Paper(
        "kwon2025tcfg",
        "Kwon, Mingi and Kim, Shin seong and Jeong, Jaeseok and Hsiao, Yi Ting and Uh, Youngjung",
        "TCFG: Tangential Damping Classifier-free Guidance",
        2025,
    ),
    "2503.18886": Paper(
        "fan2025cfgzerostar",
        "Fan, Weichen and Zheng, Amber Yijia and Yeh, Raymond A. and Liu, Ziwei",
        "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models",
        2025,
    ),
    "2504.01521": Paper(
        "zhong2025domain",
        "Zhong, Jincheng and Zhang, Xiangcheng and Wang, Jianmin and Long, Mingsheng",
        "Domain Guidance: A Simple Transfer Approach for a Pre-trained Diffusion Model",
        2025,
    ),
    "2504.13987": Paper(
        "ifriqi2025erg",
        "Ifriqi, Tariq Berrada and Romero-Soriano, Adriana and Drozdzal, Michal and "
        "Verbeek, Jakob and Alahari, Karteek",
        "Entropy Rectifying Guidance for Diffusion and Flow Models",
        2025,
    ),
    "2506.10036": Paper(
        "rajabi2025tpg",
        "Rajabi, Javad and Mehraban, Soroush and Sadat, Seyedmorteza and Taati, Babak",
        "Token Perturbation Guidance for Diffusion Models",
        2025,
    ),
    "2410.19355": Paper(
        "lv2024fastercache",
        "Lv, Zhengyao and Si, Chenyang and Song, Junhao and Yang, Zhenyu and Qiao, Yu and Liu, "
        "Ziwei and Wong, Kwan-Yee K.",
        "FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality",
        2024,
    ),
    "2506.19713": Paper(
        "sadat2025fdg",
        "Sadat, Seyedmorteza and others",
        "Guidance in the Frequency Domain Enables High-Fidelity Sampling at Low CFG Scales",
        2025,
    ),
    "2508.03442": Paper(
        "zhu2025mambog",
        "Zhu, Shangwen and Peng, Qianyu and Shu, Zhilei and others",
        "MAMBO-G: Magnitude-Aware Mitigation for Boosted Guidance",
        2025,
    ),
    "2509.22300": Paper(
        "sadat2025higs",
        "Sadat, Seyedmorteza and Salehi, Farnood and Weber, Romann M.",
        "HiGS: History-Guided Sampling for Plug-and-Play Enhancement of Diffusion Models",
        2025,
    ),
}


def bibtex(number: str) -> str:
    """Return the BibTeX entry of a paper.

    Args:
        number: its arXiv number, ``2207.12598``.

    Raises:
        ValueError: a paper that no constructor names.
    """
    if number not in PAPERS:
        raise ValueError(
            f"guidance.citations: no entry for arXiv {number}; add one to PAPERS in "
            f"guidance/citations.py"
        )
    paper = PAPERS[number]
    return (
        f"@misc{{{paper.key},\n"
        f"  author = {{{paper.authors}}},\n"
        f"  title = {{{{{paper.title}}}}},\n"
        f"  year = {{{paper.year}}},\n"
        f"  eprint = {{{number}}},\n"
        f"  archivePrefix = {{arXiv}},\n"
        f"}}"
    )
