"""Clicks through the page in a real browser."""

import json
import os
import time
import zipfile

import av
import cv2
import numpy as np
import pytest

from cmp_mm.apis import CMPInferencer, PointAnnotator
from cmp_mm.flow import read_flow


class Page:
    """What a visitor sees and does."""

    def __init__(self, browser, url):
        self.browser, self.url = browser, url

    def open(self):
        self.browser.get(self.url)
        self.wait(lambda: self.one('#file input[type=file]'))

    def one(self, selector):
        return self.browser.execute_script('return document.querySelector(arguments[0])', selector)

    def wait(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, self.texts()
            time.sleep(0.05)
        return found

    def text(self, name):
        box = self.one(f'#{name} textarea, #{name} input')
        return box and self.browser.execute_script('return arguments[0].value', box)

    def texts(self):
        names = ('loaded', 'flow-status', 'flow-arrows', 'video-status', 'mask-status', 'mask-summary')
        return {name: self.text(name) for name in names}

    def wait_text(self, name, part):
        return self.wait(lambda: part in (self.text(name) or '') and self.text(name))

    def choose(self, path):
        # Chosen again, the field has given way to the name of the file before.
        labels = '[aria-label="Clear"], [aria-label="Remove this file"]'
        cross = self.one(f'#file > .icon-button-wrapper button:is({labels}), #file td button:is({labels})')
        if cross is not None:
            cross.click()
        self.wait(lambda: self.one('#file input[type=file]')).send_keys(str(path))

    def press(self, name):
        self.wait(lambda: self.one(f'#{name}:not([disabled])')).click()

    def pick(self, name, label):
        (found,) = (
            each
            for each in self.browser.find_elements('css selector', f'#{name} label')
            if each.text == label
        )
        found.click()

    def tab(self, label):
        (found,) = (
            each
            for each in self.browser.find_elements('css selector', 'button[role=tab]')
            if each.text == label
        )
        found.click()

    def click(self, name, x, y, size):
        """With the mouse, in the middle of a pixel of the image of ``size`` (width, height)."""
        from selenium.webdriver import ActionChains

        picture = self.wait(lambda: self.one(f'#{name}-canvas img'))
        self.wait(lambda: self.browser.execute_script('return arguments[0].naturalWidth', picture))
        box = self.browser.execute_script(
            'const box = arguments[0].getBoundingClientRect(); return [box.width, box.height]', picture
        )
        # The picture fills its box in one direction and is centred in the other.
        ratio = min(box[0] / size[0], box[1] / size[1])
        shift = (round((x + 0.5 - size[0] / 2) * ratio), round((y + 0.5 - size[1] / 2) * ratio))
        ActionChains(self.browser, 0).move_to_element_with_offset(picture, *shift).click().perform()

    def download(self, name):
        before = set(os.listdir(self.browser.downloads))
        self.press(name)

        def arrived():
            new = set(os.listdir(self.browser.downloads)) - before
            return [each for each in new if not each.endswith(('.crdownload', '.tmp')) and each[0] != '.']

        (found,) = self.wait(arrived)
        return self.browser.downloads / found

    def requests(self):
        """Addresses asked for since the last call."""
        for entry in self.browser.get_log('performance'):
            message = json.loads(entry['message'])['message']
            if message['method'] == 'Network.requestWillBeSent':
                yield message['params']['request']['url']


@pytest.fixture(scope='module')
def page(browser, server):
    page = Page(browser, server.url)
    page.open()
    return page


@pytest.fixture
def picture(image, tmp_path):
    """Path of the image, and its (width, height)."""
    cv2.imwrite(str(tmp_path / 'picture.png'), image[..., ::-1])
    return tmp_path / 'picture.png', (image.shape[1], image.shape[0])


@pytest.fixture
def truth(tiny_config, weights):
    """An inferencer as the server has it."""
    return CMPInferencer(tiny_config, weights, 'cpu', out_of_range='rescale')


def test_three_tabs(page, picture, image, truth):
    path, size = picture
    page.press('flow-run')
    page.wait_text('flow-status', 'Not done: there is no image yet')
    page.choose(path)
    page.wait_text('loaded', 'Image of 61 x 45 pixels.')

    # Arrows: add, hold still, remove, undo, clear.
    page.click('flow', 20, 15, size)
    page.wait_text('flow-status', 'Arrow from 20,15: now click where it ends.')
    page.click('flow', 32, 11, size)
    page.wait_text('flow-arrows', '--arrow 20,15,12,-4')
    page.pick('flow-mode', 'hold still')
    page.click('flow', 5, 40, size)
    page.wait_text('flow-arrows', '--arrow 5,40,0,0')
    page.pick('flow-mode', 'remove nearest')
    page.click('flow', 8, 38, size)
    page.wait_text('flow-status', 'Removed')
    assert page.text('flow-arrows') == '--arrow 20,15,12,-4'
    page.press('flow-undo')
    page.wait_text('flow-arrows', '--arrow 5,40,0,0')
    page.press('flow-clear')
    page.wait(lambda: page.text('flow-arrows') == '')
    page.press('flow-undo')
    page.wait_text('flow-arrows', '--arrow 5,40,0,0')

    # Flow and its files.
    page.press('flow-run')
    page.wait_text('flow-status', 'Mean motion')
    page.wait(lambda: page.one('#flow-picture img') and page.one('#flow-overlay img'))
    arrows = [(20, 15, 12, -4), (5, 40, 0, 0)]
    expected = truth.propagate(image, arrows, color_order='rgb')[0].numpy().transpose(1, 2, 0)
    for name in ('flow-flo', 'flow-npz'):
        np.testing.assert_allclose(read_flow(page.download(name))[0], expected, atol=1e-4)

    # Video of the same arrows.
    page.tab('Animate')
    page.wait_text('video-arrows', '--arrow 5,40,0,0')
    page.press('video-run')
    page.wait_text('video-status', '16 frames of 61 x 45 pixels at 10 per second.')
    page.wait(lambda: page.one('#video-movie video'))
    with av.open(str(page.download('video-file'))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 16
    page.pick('video-form', 'gif')
    page.press('video-run')
    page.wait(lambda: page.one('#video-gif img'))
    assert page.download('video-file').read_bytes()[:3] == b'GIF'

    # Points, masks, objects and their files.
    page.tab('Masks')
    page.press('mask-export')
    page.wait_text('mask-status', 'Not done: no object is finished')
    page.pick('mask-method', 'reference')
    page.click('mask', 20, 20, size)
    page.wait_text('mask-status', 'Positive point at 20,20.')
    page.pick('mask-mode', 'add static')
    page.click('mask', 50, 40, size)
    page.wait_text('mask-status', 'Static point at 50,40.')
    page.click('mask', 2, 2, size)
    page.wait_text('mask-summary', 'static: 2')
    page.pick('mask-mode', 'remove nearest')
    page.click('mask', 3, 3, size)
    page.wait_text('mask-summary', 'static: 1')
    page.press('mask-undo')
    page.wait_text('mask-summary', 'static: 2')
    page.press('mask-undo')
    page.wait_text('mask-summary', 'static: 1')
    annotator = PointAnnotator(truth, image, color_order='rgb')
    mask = annotator.mask([(20, 20)], [(50, 40)]).mask
    page.wait_text('mask-summary', f'mask of {mask.sum()} pixels')
    page.press('mask-finish')
    page.wait_text('mask-summary', 'Finished objects: 1')
    page.press('mask-export')
    page.wait_text('mask-status', 'Exported objects: 1.')
    labels = cv2.imread(str(page.download('mask-labels')), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, mask.astype(np.uint8))
    with zipfile.ZipFile(page.download('mask-masks')) as archive:
        assert archive.namelist() == ['object_001.png']


def test_visitors_do_not_see_each_other(page, picture):
    path, size = picture
    first = page.browser.current_window_handle
    page.tab('Flow')
    before = page.text('flow-arrows')
    page.browser.switch_to.new_window('tab')
    try:
        page.open()
        page.choose(path)
        page.wait_text('loaded', 'Image of')
        assert page.text('flow-arrows') == ''
        page.pick('flow-mode', 'hold still')
        page.click('flow', 1, 1, size)
        page.wait_text('flow-arrows', '--arrow 1,1,0,0')
    finally:
        page.browser.close()
        page.browser.switch_to.window(first)
    page.press('flow-undo')
    page.wait_text('flow-status', 'Taken back')
    assert '1,1,0,0' not in page.text('flow-arrows') and before


def test_a_file_that_is_no_image(page, tmp_path):
    (tmp_path / 'broken.png').write_text('no image')
    page.choose(tmp_path / 'broken.png')
    page.wait_text('loaded', 'Not done: the file is not a whole image file')


@pytest.mark.parametrize('wrong', ['text', 'too large'])
def test_a_wrong_file_leaves_the_field_usable(page, picture, tmp_path, wrong):
    file = tmp_path / ('wrong.txt' if wrong == 'text' else 'wrong.png')
    file.write_text('no image')
    first = page.browser.current_window_handle
    page.browser.switch_to.new_window('tab')
    try:
        page.open()
        if wrong == 'text':
            page.choose(file)
            page.wait_text('loaded', 'Not done: the file is not a whole image file')
        else:
            os.truncate(file, 2**26 + 1)
            page.choose(file)
            page.wait(lambda: 'maximum allowed size of 64' in page.one('body').text)
        on_top = page.browser.execute_script(
            'const box = document.querySelector("#file").getBoundingClientRect();'
            'const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);'
            'return top.closest("#file") !== null && top.closest("[data-testid=status-tracker]") === null'
        )
        assert on_top
        page.choose(picture[0])
        page.wait_text('loaded', 'Image of 61 x 45 pixels.')
    finally:
        page.browser.close()
        page.browser.switch_to.window(first)


def test_nothing_leaves_this_machine(page, server):
    asked = {url for url in page.requests() if not url.startswith(('data:', 'blob:', 'chrome:'))}
    assert len(asked) > 20
    assert not [url for url in asked if not url.startswith(server.url)]
    assert not server.reached.exists(), server.reached.read_text()
    assert 'Traceback' not in server.log.read_text()
